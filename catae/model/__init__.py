"""The model: the autoencoder, its layers, its initial weights and its file."""
