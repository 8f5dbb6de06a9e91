import math

import pytest
import torch
from torch import Tensor

from catae.latent import stats
from catae.system import rng


def around(mean: float, deviations: list[float], count: int = 20_000) -> Tensor:
    """Return latents of a Gaussian with independent dimensions."""
    noise = torch.randn(count, len(deviations), generator=rng.generator(0, "codes"))
    return (mean + noise * torch.tensor(deviations))[..., None, None]


def test_normal_latents_have_distance_0_and_full_rank() -> None:
    result = stats.latent_stats(around(0, [1.0] * 16))
    assert result.distance == pytest.approx(0, abs=0.02)
    assert result.effective_rank == pytest.approx(16, rel=0.01)
    assert result.deviations == pytest.approx([1] * 16, abs=0.03)
    assert result.norm == pytest.approx(math.sqrt(2) * math.gamma(8.5) / math.gamma(8), rel=0.01)


@pytest.mark.parametrize(
    ("mean", "deviation", "distance"), [(3, 1, 3.0), (0, 4, 3.0), (3, 5, 5.0), (0, 0, 1.0), (-2, 1, 2.0)]
)
def test_the_distance_follows_from_means_and_deviations(mean: float, deviation: float, distance: float) -> None:
    # For independent, equally distributed dimensions: the root of mean^2 + (deviation - 1)^2.
    assert stats.latent_stats(around(mean, [deviation] * 8)).distance == pytest.approx(distance, rel=0.02)


def test_the_distance_equals_the_formula_with_matrix_roots() -> None:
    points = torch.randn(300, 6, generator=rng.generator(1, "codes")).double()
    points = points @ torch.randn(6, 6, generator=rng.generator(2, "codes")).double() + 0.7
    covariance, mean = torch.cov(points.T), points.mean(0)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ values.sqrt().diag() @ vectors.T
    squared = mean @ mean + torch.trace(covariance + torch.eye(6) - 2 * root)
    distance = stats.latent_stats(points[..., None, None]).distance
    assert distance == pytest.approx(math.sqrt(squared / 6), rel=1e-6)


def test_the_effective_rank_counts_directions() -> None:
    one = around(0, [2.0])
    assert stats.latent_stats(one.expand(-1, 8, 1, 1)).effective_rank == pytest.approx(1, abs=0.01)
    assert stats.latent_stats(around(0, [5.0, 5.0, 0.0, 0.0])).effective_rank == pytest.approx(2, rel=0.01)
    uneven = [3.0, 1.0]
    shares = [0.9, 0.1]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert stats.latent_stats(around(0, uneven)).effective_rank == pytest.approx(expected, rel=0.02)


def test_deviations_are_sorted() -> None:
    assert stats.latent_stats(around(5, [0.5, 0.0, 3.0])).deviations == pytest.approx([3, 0.5, 0], abs=0.05)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_statistics_of_few_images_are_finite(count: int) -> None:
    result = stats.latent_stats(around(1, [1.0] * 32, count))
    assert result.pictures == count
    assert 1 <= result.effective_rank <= 32
    assert all(math.isfinite(value) for value in (result.norm, result.distance, *result.deviations))


def test_the_report_compares_with_as_many_normal_samples() -> None:
    train, test = stats.latent_stats(around(0, [2.0] * 4, 90)), around(0, [2.0] * 4, 10)
    first, second = (stats.latent_report(train, test, 2 * test, rng.generator(3, "samples")) for _ in range(2))
    assert first == second
    assert (first.train.pictures, first.test.pictures, first.folded.pictures, first.normal.pictures) == (90, 10, 10, 10)
    assert first.folded.norm == pytest.approx(2 * first.test.norm)
