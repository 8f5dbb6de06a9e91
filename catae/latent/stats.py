"""What a model's codes look like: how wide they lie, in how many directions, and how far from N(0, I)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catae.model.linalg import moments


@dataclass(frozen=True)
class LatentStats:
    """The codes of some pictures, by the Gaussian that is fitted to them.

    Attributes:
        pictures: how many there are.
        norm: the mean length of a code.
        effective_rank: in how many directions the codes vary, from 1 to latent_dim: exp of the entropy of the
            covariance's eigenvalues, as shares of their sum (Roy and Vetterli 2007,
            https://ieeexplore.ieee.org/document/7098875).
        distance: the Fréchet distance of the fitted Gaussian from N(0, I), over the root of latent_dim: 0 where they
            are the same, 1 where all codes are 0 (Dowson and Landau 1982,
            https://doi.org/10.1016/0047-259X(82)90077-X). The divergence of Kullback and Leibler would be infinite
            where a dimension never varies, or where there are fewer pictures than dimensions.
        deviations: the standard deviation of each dimension, the largest first.
    """

    pictures: int
    norm: float
    effective_rank: float
    distance: float
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class LatentReport:
    """The codes of train and test pictures as training left them, and the latter in the basis that is handed out.

    Beside them stand, measured alike, as many samples of N(0, I) as test pictures: what is left between these and
    N(0, I) itself is chance.
    """

    train: LatentStats
    test: LatentStats
    folded: LatentStats
    normal: LatentStats


def compare(train: LatentStats, test: Tensor, folded: Tensor, generator: torch.Generator) -> LatentReport:
    """Describes the codes of test pictures, before the fold and after, beside those of train pictures.

    Args:
        train: of the train pictures, before the fold.
        test: (pictures, latent_dim, 1, 1), before the fold.
        folded: of these others, after the fold.
        generator: for the samples of N(0, I) that they stand beside.
    """
    normal = torch.randn(test.shape, generator=generator)
    return LatentReport(train, describe(test), describe(folded), describe(normal))


def describe(codes: Tensor) -> LatentStats:
    """Describes codes of (pictures, latent_dim, 1, 1), at least one."""
    points = codes.flatten(1).double()
    mean, covariance = moments(points)
    variances = torch.linalg.eigvalsh(covariance).clamp(min=0)
    shares = variances / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    deviations = covariance.diagonal().sqrt().sort(descending=True).values.tolist()
    # Of two Gaussians whose covariances commute, as any does with I, the distance has no root of a matrix in it.
    squared = mean.square().sum() + (variances.sqrt() - 1).square().sum()
    return LatentStats(
        pictures=len(points),
        norm=points.norm(dim=1).mean().item(),
        effective_rank=torch.special.entr(shares).sum().exp().item(),
        distance=(squared / len(mean)).sqrt().item(),
        deviations=tuple(round(deviation, 4) for deviation in deviations),
    )
