"""catae: train a convolutional autoencoder on small pictures, and see what it learned.

The library knows pictures, tensors and files, and no orchestrator; `flows/` composes it into the job.
Read it in the order of the data: sources, decoding, images, duplicates, store, split, batches, model, training, latent,
scores, figures, gallery, report.
"""
