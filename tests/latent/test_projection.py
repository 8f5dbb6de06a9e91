import re

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from catae.errors import UserError
from catae.latent import projection
from catae.system import rng


def make_latents(count: int, dimensions: int) -> Tensor:
    noise = torch.randn(count, dimensions, generator=rng.generator(0, "codes"))
    return (noise * torch.arange(1.0, dimensions + 1))[..., None, None]


def test_pca_equals_scikit_learns_and_states_the_explained_variance() -> None:
    latents = make_latents(200, 6)
    exact = PCA(2).fit(latents.flatten(1).double())
    plane = projection.pca(latents)
    assert np.abs(plane.points) == pytest.approx(np.abs(exact.transform(latents.flatten(1).double())))
    shares = [int(re.findall(r"(\d+)% of the variance", axis)[0]) / 100 for axis in plane.axes]
    assert shares == pytest.approx(exact.explained_variance_ratio_, abs=0.006)


def test_pca_does_not_depend_on_the_order_of_the_latents() -> None:
    latents = make_latents(50, 4)
    assert projection.pca(latents).points == pytest.approx(projection.pca(latents.flip(0)).points[::-1])


@pytest.mark.parametrize(("count", "dimensions"), [(1, 4), (2, 4), (10, 1), (1, 1)])
def test_pca_maps_few_latents_and_a_single_dimension(count: int, dimensions: int) -> None:
    points = projection.pca(make_latents(count, dimensions)).points
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dimensions"), [(3, 4), (20, 2)])
def test_umap_maps_few_latents(count: int, dimensions: int) -> None:
    pytest.importorskip("umap", reason="umap-learn is missing: pip install -e .[umap]")
    assert np.isfinite(projection.umap(make_latents(count, dimensions), 0).points).all()
    for few in ((2, 4), (4, 1)):
        with pytest.raises(UserError, match="--map umap needs .* and the run has {} and {};".format(*few)):
            projection.umap(make_latents(*few), 0)


def test_positions_are_evenly_spaced() -> None:
    assert projection.evenly(range(10), 4) == [0, 2, 5, 7]
    assert projection.evenly(range(3)) == [0, 1, 2]
    assert len(set(projection.evenly(range(1690)))) == 1000
