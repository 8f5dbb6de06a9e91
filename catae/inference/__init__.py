"""What a trained model can do: the Python API, images, export, and the playground."""
