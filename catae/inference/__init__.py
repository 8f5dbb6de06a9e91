"""Use a trained model: the Python API, image files, export and the playground."""
