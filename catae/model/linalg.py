"""Principal directions and moments, which the initial weights, the whitening, the priors and the PCA baseline share."""

import torch
from torch import Tensor


def moments(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (dim,) and the covariance (dim, dim) of points (count, dim)."""
    mean = points.mean(0)
    return mean, (points - mean).T @ (points - mean) / max(1, len(points) - 1)


def principal(second: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading eigenvectors of a matrix of second moments, and their eigenvalues.

    Args:
        second: float64 (features, features), symmetric.
        count: number of directions.

    Returns:
        Orthonormal rows, float64 (count, features), and the mean square along each, (count,), in descending order.
    """
    values, vectors = torch.linalg.eigh(second)
    return signed(vectors.flip(1)[:, :count].T), values.flip(0)[:count]


def signed(directions: Tensor) -> Tensor:
    """Flip directions (count, features) so that the largest entry of each is positive: eigenvectors have no sign."""
    return directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
