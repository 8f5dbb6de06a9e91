"""The space of codes: pictures into it and out of it, and walks through it. Random points of it: `catae.priors`."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from catae.data.decode import Pixels
from catae.data.loader import Loader
from catae.data.transforms import to_uint8
from catae.model.autoencoder import AutoEncoder

Walk = Callable[[Tensor, Tensor, int], Tensor]


@torch.inference_mode()
def encode(model: AutoEncoder, loader: Loader, dtype: torch.dtype = torch.float32) -> Tensor:
    """The codes of the loader's pictures, computed in `dtype`: float32 (pictures, latent_dim, 1, 1)."""
    return torch.cat([model.encoder(batch.to(dtype)).float() for batch in loader])


@torch.inference_mode()
def decode(model: AutoEncoder, codes: Tensor) -> Pixels:
    """The pictures that codes of (count, latent_dim, 1, 1) stand for: uint8 (count, size, size, 3)."""
    return np.concatenate([to_uint8(model.decoder(part)) for part in torch.split(codes, 256)])


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


def slerp(a: Tensor, b: Tensor, steps: int = 50) -> Tensor:
    """The walk along the arc from code `a` to code `b`: the direction turns evenly, and the norm grows evenly.

    The codes of a straight walk are shorter in its middle than samples of N(0, I) ever are, in many dimensions; those
    of this one are not (Shoemake 1985, https://doi.org/10.1145/325165.325242; White 2016,
    https://arxiv.org/abs/1609.04468). It has Shoemake's formula in the plane's perpendicular axes, where nothing is
    divided by a sine that may be 0. Parallel codes have a straight walk, and so has a code of 0, which has no
    direction. Opposite ones have no one arc: theirs goes by way of the axis that they lie along the least.

    It takes and gives what `interpolate` does.
    """
    alpha = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    start, end = a.flatten().double(), b.flatten().double()
    norms = (1 - alpha) * vector_norm(start) + alpha * vector_norm(end)
    along = normalize(start if start.any() else end, dim=0)
    towards = normalize(end if end.any() else start, dim=0)
    cosine = along @ towards
    across = towards - cosine * along
    angle = torch.atan2(vector_norm(across), cosine)
    if vector_norm(across) < 1e-6:  # the two lie on one line, and float32 tells no plane
        across = -along * along[along.abs().argmin()]
        across[along.abs().argmin()] += 1
    codes: Tensor = norms * (torch.cos(alpha * angle) * along + torch.sin(alpha * angle) * normalize(across, dim=0))
    return codes.float().view(-1, *a.shape[1:])


def between_four(corners: Tensor, side: int, walk: Walk = interpolate) -> Tensor:
    """The codes between four corners, row by row: down the left and the right edge, and from one to the other.

    With straight walks they are bilinear in the corners.

    Args:
        corners: (4, latent_dim, 1, 1): top left, top right, bottom left, bottom right.
        side: how many codes a row, and how many rows, the corners included; at least 2.
        walk: how to go from one code to another.

    Returns:
        (side * side, latent_dim, 1, 1).
    """
    a, b, c, d = torch.split(corners, 1)
    edges = zip(torch.split(walk(a, c, side), 1), torch.split(walk(b, d, side), 1), strict=True)
    return torch.cat([walk(left, right, side) for left, right in edges])


def direction(positives: Tensor, negatives: Tensor) -> Tensor:
    """What tells codes that have something from codes that lack it: the mean of the ones minus that of the others.

    Args:
        having: (pictures, latent_dim, 1, 1), at least one.
        lacking: the same, of others.

    Returns:
        (1, latent_dim, 1, 1).
    """
    return positives.mean(0, keepdim=True) - negatives.mean(0, keepdim=True)
