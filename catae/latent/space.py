"""Encode images into the latent space, and decode latents. `latent.priors` samples it, `latent.interpolation` mixes."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from catae.data.decode import Pixels
from catae.data.transforms import to_uint8
from catae.model.autoencoder import AutoEncoder

DECODED = 256  # latents per batch of the decoder


@torch.no_grad()
def encode(model: AutoEncoder, batches: Iterable[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the latents of batches of images, computed in `dtype`: float32 (images, latent_dim, 1, 1).

    Args:
        model: the model.
        batches: float32 (batch, 3, size, size) in [-1, 1]; a loader, or a list of tensors.
        dtype: the precision of the encoder.
    """
    return torch.cat([model.encoder(batch.to(dtype)).float() for batch in batches])


def decode(model: AutoEncoder, latents: Tensor) -> Pixels:
    """Return the images of latents (count, latent_dim, 1, 1): uint8 (count, size, size, 3)."""
    return np.concatenate([to_uint8(decode_tensor(model, batch)) for batch in torch.split(latents, DECODED)])


@torch.no_grad()
def decode_tensor(model: AutoEncoder, latents: Tensor) -> Tensor:
    """Return the images of latents (count, latent_dim, 1, 1): float32 (count, 3, size, size) in [-1, 1]."""
    return torch.cat([model.decoder(batch) for batch in torch.split(latents, DECODED)])
