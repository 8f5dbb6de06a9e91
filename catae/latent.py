"""The space of codes: pictures into it and out of it, and walks through it. Random points of it: `catae.priors`."""

import numpy as np
import torch
from torch import Tensor

from catae.batches import Loader, viewable
from catae.decoding import Pixels
from catae.model import AutoEncoder


@torch.inference_mode()
def encode(model: AutoEncoder, loader: Loader) -> Tensor:
    """The codes of the loader's pictures: (pictures, latent_dim, 1, 1)."""
    return torch.cat([model.encoder(batch) for batch in loader])


@torch.inference_mode()
def decode(model: AutoEncoder, codes: Tensor) -> Pixels:
    """The pictures that codes of (count, latent_dim, 1, 1) stand for: uint8 (count, size, size, 3)."""
    return np.concatenate([viewable(model.decoder(part)) for part in torch.split(codes, 256)])


def interpolate(a: Tensor, b: Tensor, steps: int = 50) -> Tensor:
    """The straight walk from code `a` to code `b`: `z = (1 - alpha) * a + alpha * b`, alpha from 0 to 1.

    Args:
        a: (1, latent_dim, 1, 1).
        b: (1, latent_dim, 1, 1).
        steps: how many codes, both ends included; at least 2.

    Returns:
        (steps, latent_dim, 1, 1).
    """
    alpha = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
    return (1 - alpha) * a + alpha * b
