"""The quality of a model: reconstruction scores, the PCA baseline and distances of samples."""
