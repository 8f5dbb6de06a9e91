"""Two-dimensional maps of latents: PCA, or UMAP where it is installed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catae.errors import UserError
from catae.model.linalg import moments, principal
from catae.system import rng

Projection = Literal["pca", "umap"]

MOST = 1000  # images on a map, and in TensorBoard's projector
NEIGHBOURS = 15  # UMAP's default


@dataclass(frozen=True)
class Map:
    """The positions of latents in a plane.

    Attributes:
        points: float64 (count, 2).
        axes: labels of the two axes.
    """

    points: npt.NDArray[np.float64]
    axes: tuple[str, str]


def project(latents: Tensor, projection: Projection, seed: int) -> Map:
    """Return the map of latents (count, latent_dim, 1, 1).

    Raises:
        UserError: UMAP is requested and not installed, or there are fewer than three latents or two dimensions.
    """
    return umap(latents, seed) if projection == "umap" else pca(latents)


def pca(latents: Tensor) -> Map:
    """Return the map of latents (count, latent_dim, 1, 1) along their first two principal components."""
    points = latents.flatten(1).double()
    mean, covariance = moments(points)
    directions, variances = principal(covariance, 2)
    shares = (variances / covariance.trace()).nan_to_num().tolist()
    projected = (points - mean) @ directions.T
    axes = [f"principal component {number}, {share:.0%} of the variance" for number, share in enumerate(shares, 1)]
    if len(shares) == 1:
        return Map(torch.cat([projected, torch.zeros_like(projected)], 1).numpy(), (axes[0], ""))
    return Map(projected.numpy(), (axes[0], axes[1]))


def umap(latents: Tensor, seed: int) -> Map:
    """Return the map of latents (count, latent_dim, 1, 1) that UMAP finds: neighbours stay near each other.

    Large distances mean little (McInnes, Healy and Melville 2018, https://arxiv.org/abs/1802.03426).

    Raises:
        UserError: umap-learn is not installed, or there are fewer than three latents or two dimensions.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError("--map umap needs umap-learn: pip install 'catae[umap]', or use --map pca") from error
    if len(latents) < 3 or latents.shape[1] < 2:
        raise UserError(
            f"--map umap needs at least 3 images and 2 latent dimensions, and the run has {len(latents)} and "
            f"{latents.shape[1]}; use --map pca"
        )
    # PCA initializes it: the default, a spectral embedding, fails for few images. Several jobs are not deterministic.
    mapper = UMAP(
        n_neighbors=min(NEIGHBOURS, len(latents) - 1),
        init=pca(latents).points.astype(np.float32),
        random_state=rng.number(seed, "UMAP") % 2**32,
        n_jobs=1,
    )
    projected = mapper.fit_transform(latents.flatten(1).numpy())
    return Map(np.asarray(projected, np.float64), ("UMAP: neighbours are near, large distances mean little", ""))


def evenly(positions: Sequence[int], most: int = MOST) -> list[int]:
    """Return at most `most` positions, evenly spaced: the images of a folder are often sorted by what they show."""
    count = min(most, len(positions))
    return [positions[number * len(positions) // count] for number in range(count)]
