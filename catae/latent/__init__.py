"""The latent space: encoding, interpolation, whitening, priors, statistics and maps."""
