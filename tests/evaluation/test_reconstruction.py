import math

import numpy as np
import pytest
import torch
from sklearn import decomposition
from torch import Tensor

from catae.data import loader
from catae.data.image_store import ImageStore
from catae.evaluation import pca_baseline, reconstruction
from catae.model.autoencoder import AutoEncoder
from catae.system import rng


def flat(images: ImageStore, positions: range) -> Tensor:
    return torch.cat(list(loader.ordered_loader(images, positions))).flatten(1)


@pytest.mark.parametrize("components", [1, 16, 60])
def test_pca_restores_as_well_as_an_exact_one(drawn_set: ImageStore, components: int) -> None:
    train, test = range(90), range(90, 120)
    fitted = pca_baseline.fit(loader.ordered_loader(drawn_set, train), components, rng.generator(0, "PCA"))
    exact = decomposition.PCA(components, svd_solver="full").fit(flat(drawn_set, train).numpy())
    pictures = flat(drawn_set, test)
    expected = torch.from_numpy(exact.inverse_transform(exact.transform(pictures.numpy()))).float().clamp(-1, 1)
    ours = fitted.restore(pictures.view(-1, 3, 32, 32)).flatten(1)
    assert (ours - pictures).abs().mean().item() == pytest.approx((expected - pictures).abs().mean().item(), rel=1e-3)
    torch.testing.assert_close(fitted.directions @ fitted.directions.T, torch.eye(components), atol=1e-4, rtol=0)


def test_pca_of_fewer_pictures_than_components_has_as_many_as_the_pictures_span(drawn_set: ImageStore) -> None:
    fitted = pca_baseline.fit(loader.ordered_loader(drawn_set, range(5)), 128, rng.generator(0, "PCA"))
    assert len(fitted.directions) == 5
    pictures = flat(drawn_set, range(5)).view(-1, 3, 32, 32)
    torch.testing.assert_close(fitted.restore(pictures), pictures, atol=1e-3, rtol=0)


def test_scores_are_what_their_definitions_give(drawn_set: ImageStore) -> None:
    test_loader = loader.ordered_loader(drawn_set, range(120))
    found = reconstruction.score(test_loader, lambda batch: (batch + 0.1).clamp(-1, 1))
    pictures = flat(drawn_set, range(120)).double()
    error = (pictures + 0.1).clamp(-1, 1) - pictures
    assert found.l1 == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert found.l1_unit == pytest.approx(found.l1 / 2)
    assert found.psnr == pytest.approx(10 * math.log10(1 / (error / 2).square().mean().item()), rel=1e-4)
    assert 0.5 < found.ssim < 1


def test_a_perfect_restoration_scores_perfectly(drawn_set: ImageStore) -> None:
    found = reconstruction.score(loader.ordered_loader(drawn_set, range(20)), lambda batch: batch)
    assert (found.l1, found.ssim) == (0, pytest.approx(1, abs=1e-4))
    assert found.psnr == math.inf


def test_structural_similarity_is_that_of_wang_et_al(drawn_set: ImageStore) -> None:
    """By the definition, in float64: an 11x11 Gaussian window of 1.5 pixels, at every place where it fits."""
    batch = next(iter(loader.ordered_loader(drawn_set, range(8))))
    noise = torch.randn(batch.shape, generator=rng.generator(0, "noise"))
    restored = (batch + 0.2 * noise).clamp(-1, 1)
    x, y = ((part.double() + 1) / 2 for part in (batch, restored))
    ticks = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-ticks.square() / (2 * 1.5**2))
    window = (window[:, None] * window / window.sum() ** 2).expand(3, 1, 11, 11)

    def mean(image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image, window, groups=3)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean().item()
    found = reconstruction.score([batch], lambda _: restored)  # type: ignore[arg-type]
    assert found.ssim == pytest.approx(expected, abs=1e-4)


def test_the_model_stands_beside_pca_and_the_mean_picture_of_train(drawn_set: ImageStore) -> None:
    train, test = (loader.ordered_loader(drawn_set, part) for part in (range(90), range(90, 120)))
    found = reconstruction.compare(AutoEncoder(32, 16, 4), train, test, rng.generator(0, "PCA"))
    mean = flat(drawn_set, range(90)).mean(0)
    expected = (flat(drawn_set, range(90, 120)) - mean).abs().mean().item()
    assert (found.pictures, found.fitted_on, found.pca_components) == (30, 90, 16)
    assert found.mean_picture.l1 == pytest.approx(expected, rel=1e-4)
    assert found.pca.l1 < found.mean_picture.l1
    assert np.isfinite([found.model.l1, found.model.ssim, found.model.psnr]).all()
