"""How the network learns: the trainer, early stopping, the moving average, checkpoints, and logs."""
