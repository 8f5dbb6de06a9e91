import math

import pytest
import torch
from torch import Tensor

from catae.latent import stats
from catae.system import rng


def around(mean: float, deviations: list[float], count: int = 20_000) -> Tensor:
    """Codes of a Gaussian with independent dimensions."""
    noise = torch.randn(count, len(deviations), generator=rng.generator(0, "codes"))
    return (mean + noise * torch.tensor(deviations))[..., None, None]


def test_codes_of_n_0_i_are_at_no_distance_from_it_and_vary_in_all_directions() -> None:
    cloud = stats.describe(around(0, [1.0] * 16))
    assert cloud.distance == pytest.approx(0, abs=0.02)
    assert cloud.effective_rank == pytest.approx(16, rel=0.01)
    assert cloud.deviations == pytest.approx([1] * 16, abs=0.03)
    assert cloud.norm == pytest.approx(math.sqrt(2) * math.gamma(8.5) / math.gamma(8), rel=0.01)


@pytest.mark.parametrize(
    ("mean", "deviation", "distance"), [(3, 1, 3.0), (0, 4, 3.0), (3, 5, 5.0), (0, 0, 1.0), (-2, 1, 2.0)]
)
def test_the_distance_is_that_of_means_and_deviations(mean: float, deviation: float, distance: float) -> None:
    # Of independent dimensions that are all alike: the root of mean^2 + (deviation - 1)^2.
    assert stats.describe(around(mean, [deviation] * 8)).distance == pytest.approx(distance, rel=0.02)


def test_the_distance_is_that_of_the_formula_with_roots_of_matrices() -> None:
    points = torch.randn(300, 6, generator=rng.generator(1, "codes")).double()
    points = points @ torch.randn(6, 6, generator=rng.generator(2, "codes")).double() + 0.7
    covariance, mean = torch.cov(points.T), points.mean(0)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ values.sqrt().diag() @ vectors.T
    squared = mean @ mean + torch.trace(covariance + torch.eye(6) - 2 * root)
    distance = stats.describe(points[..., None, None]).distance
    assert distance == pytest.approx(math.sqrt(squared / 6), rel=1e-6)


def test_the_effective_rank_counts_directions_and_not_dimensions() -> None:
    one = around(0, [2.0])
    assert stats.describe(one.expand(-1, 8, 1, 1)).effective_rank == pytest.approx(1, abs=0.01)
    assert stats.describe(around(0, [5.0, 5.0, 0.0, 0.0])).effective_rank == pytest.approx(2, rel=0.01)
    uneven = [3.0, 1.0]
    shares = [0.9, 0.1]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert stats.describe(around(0, uneven)).effective_rank == pytest.approx(expected, rel=0.02)


def test_deviations_are_sorted_and_a_dimension_that_never_varies_has_none() -> None:
    assert stats.describe(around(5, [0.5, 0.0, 3.0])).deviations == pytest.approx([3, 0.5, 0], abs=0.05)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_pictures_than_dimensions_are_described_in_numbers(count: int) -> None:
    cloud = stats.describe(around(1, [1.0] * 32, count))
    assert cloud.pictures == count
    assert 1 <= cloud.effective_rank <= 32
    assert all(math.isfinite(value) for value in (cloud.norm, cloud.distance, *cloud.deviations))


def test_the_samples_beside_them_are_as_many_as_test_pictures_and_the_same_for_the_same_seed() -> None:
    train, test = stats.describe(around(0, [2.0] * 4, 90)), around(0, [2.0] * 4, 10)
    first, second = (stats.compare(train, test, 2 * test, rng.generator(3, "samples")) for _ in range(2))
    assert first == second
    assert (first.train.pictures, first.test.pictures, first.folded.pictures, first.normal.pictures) == (90, 10, 10, 10)
    assert first.folded.norm == pytest.approx(2 * first.test.norm)
