"""What the network is: the autoencoder, its layers, its initial weights, and its file."""
