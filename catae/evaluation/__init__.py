"""How good a model is: reconstruction scores, the PCA baseline, and distances of samples."""
