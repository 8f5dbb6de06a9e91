"""Statistics of latents: their spread, their effective dimension, and their distance from N(0, I)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catae.model.linalg import moments


@dataclass(frozen=True)
class LatentStats:
    """Statistics of the latents of a set of images, from their mean and covariance.

    Attributes:
        pictures: number of images.
        norm: mean norm of a latent.
        effective_rank: number of directions in which the latents vary, from 1 to latent_dim: exp of the entropy of the
            eigenvalues of the covariance, as shares of their sum (Roy and Vetterli 2007,
            https://ieeexplore.ieee.org/document/7098875).
        distance: Fréchet distance of the fitted Gaussian from N(0, I), divided by the root of latent_dim: 0 if they are
            equal, 1 if all latents are 0 (Dowson and Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X). The
            Kullback-Leibler divergence would be infinite if a dimension never varies, or with fewer images than
            dimensions.
        deviations: standard deviation of each dimension, in descending order.
    """

    pictures: int
    norm: float
    effective_rank: float
    distance: float
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class LatentReport:
    """Statistics of latents before and after whitening, and of samples of N(0, I) for reference.

    Attributes:
        train: train images, before whitening.
        test: test images, before whitening.
        folded: test images, after whitening, as the exported model encodes them.
        normal: as many samples of N(0, I) as test images: their distance from N(0, I) is chance.
    """

    train: LatentStats
    test: LatentStats
    folded: LatentStats
    normal: LatentStats


def latent_report(train: LatentStats, test: Tensor, whitened: Tensor, generator: torch.Generator) -> LatentReport:
    """Return the statistics of train and test latents, and of samples of N(0, I).

    Args:
        train: statistics of the train latents, before whitening.
        test: test latents, before whitening, (images, latent_dim, 1, 1).
        whitened: test latents, after whitening, of the same shape.
        generator: draws the samples of N(0, I).
    """
    normal = torch.randn(test.shape, generator=generator)
    return LatentReport(train, latent_stats(test), latent_stats(whitened), latent_stats(normal))


def latent_stats(latents: Tensor) -> LatentStats:
    """Return the statistics of latents (images, latent_dim, 1, 1), at least one."""
    points = latents.flatten(1).double()
    mean, covariance = moments(points)
    variances = torch.linalg.eigvalsh(covariance).clamp(min=0)
    shares = variances / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    deviations = covariance.diagonal().sqrt().sort(descending=True).values.tolist()
    # Any covariance commutes with I, so the distance needs no matrix square root.
    squared = mean.square().sum() + (variances.sqrt() - 1).square().sum()
    return LatentStats(
        pictures=len(points),
        norm=points.norm(dim=1).mean().item(),
        effective_rank=torch.special.entr(shares).sum().exp().item(),
        distance=(squared / len(mean)).sqrt().item(),
        deviations=tuple(round(deviation, 4) for deviation in deviations),
    )
