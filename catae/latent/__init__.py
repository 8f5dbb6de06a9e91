"""What is in the latent space: encode and decode, interpolation, whitening, priors, and statistics."""
