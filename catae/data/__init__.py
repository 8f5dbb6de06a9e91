"""What the images are: sources, decoding, duplicates, the split, and batches."""
