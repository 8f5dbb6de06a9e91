"""What catae needs of the machine: files, hardware, random numbers, progress, signals, and words for people."""
