"""Interpolation: between two latents, between four, and along the direction of an attribute.

`interpolate` is the only way from images to interpolated images: it encodes, mixes the latents and decodes them. What
it mixes them with are the other functions here.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from catae.latent import space
from catae.model.autoencoder import AutoEncoder

Path = Callable[[Tensor, Tensor, int], Tensor]
Decoded = TypeVar("Decoded")


def interpolate(
    model: AutoEncoder,
    batches: Iterable[Tensor],
    mix: Callable[[Tensor], Tensor],
    decode: Callable[[AutoEncoder, Tensor], Decoded],
) -> Decoded:
    """Encode images, mix their latents, and decode the result.

    Args:
        model: the model.
        batches: images, float32 (batch, 3, size, size) in [-1, 1].
        mix: from the latents of all images to those to decode, both (count, latent_dim, 1, 1).
        decode: `space.decode` for uint8 images, or `space.decode_tensor`.
    """
    return decode(model, mix(space.encode(model, batches)))


def linear(a: Tensor, b: Tensor, steps: int = 50) -> Tensor:
    """Return the straight path from latent `a` to latent `b`: `z = (1 - alpha) * a + alpha * b`, alpha from 0 to 1.

    Args:
        a: (1, latent_dim, 1, 1).
        b: (1, latent_dim, 1, 1).
        steps: number of latents, including both ends; at least 2.

    Returns:
        (steps, latent_dim, 1, 1).
    """
    alpha = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
    return (1 - alpha) * a + alpha * b


def slerp(a: Tensor, b: Tensor, steps: int = 50) -> Tensor:
    """Return the spherical path from latent `a` to latent `b`: angle and norm change at a constant rate.

    In many dimensions, the middle of a straight path is shorter than samples of N(0, I) ever are; that of a spherical
    path is not (Shoemake 1985, https://doi.org/10.1145/325165.325242; White 2016, https://arxiv.org/abs/1609.04468).
    Shoemake's formula is applied to orthogonal axes of the plane, which avoids a division by a sine that may be 0. The
    path is straight between parallel latents, and from or to the latent 0, which has no direction. Between opposite
    latents the arc is not unique: it passes through the coordinate axis that they are closest to orthogonal to.

    Arguments and result are those of `linear`.
    """
    alpha = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    start, end = a.flatten().double(), b.flatten().double()
    norms = (1 - alpha) * vector_norm(start) + alpha * vector_norm(end)
    along = normalize(start if start.any() else end, dim=0)
    towards = normalize(end if end.any() else start, dim=0)
    cosine = along @ towards
    across = towards - cosine * along
    angle = torch.atan2(vector_norm(across), cosine)
    if vector_norm(across) < 1e-6:  # collinear up to the rounding of float32, which determines no plane
        across = -along * along[along.abs().argmin()]
        across[along.abs().argmin()] += 1
    latents: Tensor = norms * (torch.cos(alpha * angle) * along + torch.sin(alpha * angle) * normalize(across, dim=0))
    return latents.float().view(-1, *a.shape[1:])


PATHS: dict[str, Path] = {"linear": linear, "spherical": slerp}


def between_two(ends: Tensor, steps: int, path: Path = linear) -> Tensor:
    """Return the path between two latents (2, latent_dim, 1, 1), including both: (steps, latent_dim, 1, 1)."""
    a, b = torch.split(ends, 1)
    return path(a, b, steps)


def between_four(corners: Tensor, side: int, path: Path = linear) -> Tensor:
    """Return the grid between four latents, row by row: paths down the left and right edge, and between these.

    With the straight path this is bilinear interpolation.

    Args:
        corners: (4, latent_dim, 1, 1): top left, top right, bottom left, bottom right.
        side: number of rows and of columns, including the corners; at least 2.
        path: the path between two latents.

    Returns:
        (side * side, latent_dim, 1, 1).
    """
    a, b, c, d = torch.split(corners, 1)
    edges = zip(torch.split(path(a, c, side), 1), torch.split(path(b, d, side), 1), strict=True)
    return torch.cat([path(left, right, side) for left, right in edges])


def along_attribute(latents: Tensor, positives: int, factors: Sequence[float]) -> Tensor:
    """Return one latent plus multiples of the direction of an attribute (Larsen et al. 2016).

    The direction is the mean latent of images with the attribute minus that of images without it
    (https://arxiv.org/abs/1512.09300).

    Args:
        latents: (count, latent_dim, 1, 1): the one to change, then those with the attribute, then those without.
        positives: number of latents with the attribute; at least one, as of those without.
        factors: the multiples.

    Returns:
        (factors, latent_dim, 1, 1).
    """
    origin, having, lacking = torch.split(latents, [1, positives, len(latents) - 1 - positives])
    direction = having.mean(0, keepdim=True) - lacking.mean(0, keepdim=True)
    return origin + torch.tensor(factors).view(-1, 1, 1, 1) * direction
