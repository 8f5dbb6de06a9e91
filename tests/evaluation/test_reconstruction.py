import math

import numpy as np
import pytest
import torch
from sklearn import decomposition
from torch import Tensor

from catae.data import loader
from catae.data.image_store import ImageStore
from catae.evaluation import reconstruction
from catae.evaluation.pca_baseline import fit_pca
from catae.model.autoencoder import AutoEncoder
from catae.system import rng


def flat(images: ImageStore, positions: range) -> Tensor:
    return torch.cat(list(loader.ordered_loader(images, positions))).flatten(1)


@pytest.mark.parametrize("components", [1, 16, 60])
def test_pca_reconstructs_as_well_as_exact_pca(synthetic_images: ImageStore, components: int) -> None:
    train, test = range(90), range(90, 120)
    pca = fit_pca(loader.ordered_loader(synthetic_images, train), components, rng.generator(0, "PCA"))
    exact = decomposition.PCA(components, svd_solver="full").fit(flat(synthetic_images, train).numpy())
    images = flat(synthetic_images, test)
    expected = torch.from_numpy(exact.inverse_transform(exact.transform(images.numpy()))).float().clamp(-1, 1)
    actual = pca.reconstruct(images.view(-1, 3, 32, 32)).flatten(1)
    assert (actual - images).abs().mean().item() == pytest.approx((expected - images).abs().mean().item(), rel=1e-3)
    torch.testing.assert_close(pca.directions @ pca.directions.T, torch.eye(components), atol=1e-4, rtol=0)


def test_pca_of_few_images_has_as_many_components_as_they_span(synthetic_images: ImageStore) -> None:
    pca = fit_pca(loader.ordered_loader(synthetic_images, range(5)), 128, rng.generator(0, "PCA"))
    assert len(pca.directions) == 5
    images = flat(synthetic_images, range(5)).view(-1, 3, 32, 32)
    torch.testing.assert_close(pca.reconstruct(images), images, atol=1e-3, rtol=0)


def test_scores_follow_their_definitions(synthetic_images: ImageStore) -> None:
    test_loader = loader.ordered_loader(synthetic_images, range(120))
    scores = reconstruction.score(test_loader, lambda batch: (batch + 0.1).clamp(-1, 1))
    images = flat(synthetic_images, range(120)).double()
    error = (images + 0.1).clamp(-1, 1) - images
    assert scores.l1 == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert scores.l1_unit == pytest.approx(scores.l1 / 2)
    assert scores.psnr == pytest.approx(10 * math.log10(1 / (error / 2).square().mean().item()), rel=1e-4)
    assert 0.5 < scores.ssim < 1


def test_a_perfect_reconstruction_has_perfect_scores(synthetic_images: ImageStore) -> None:
    scores = reconstruction.score(loader.ordered_loader(synthetic_images, range(20)), lambda batch: batch)
    assert (scores.l1, scores.ssim) == (0, pytest.approx(1, abs=1e-4))
    assert scores.psnr == math.inf


def test_ssim_follows_its_definition(synthetic_images: ImageStore) -> None:
    """In float64: an 11x11 Gaussian window of 1.5 pixels, at every position where it fits."""
    batch = next(iter(loader.ordered_loader(synthetic_images, range(8))))
    noise = torch.randn(batch.shape, generator=rng.generator(0, "noise"))
    reconstructed = (batch + 0.2 * noise).clamp(-1, 1)
    x, y = ((part.double() + 1) / 2 for part in (batch, reconstructed))
    ticks = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-ticks.square() / (2 * 1.5**2))
    window = (window[:, None] * window / window.sum() ** 2).expand(3, 1, 11, 11)

    def mean(image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image, window, groups=3)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean().item()
    scores = reconstruction.score([batch], lambda _: reconstructed)
    assert scores.ssim == pytest.approx(expected, abs=1e-4)


def test_baselines_are_fitted_to_train_and_scored_on_test(synthetic_images: ImageStore) -> None:
    train, test = (loader.ordered_loader(synthetic_images, part) for part in (range(90), range(90, 120)))
    scores = reconstruction.score_against_baselines(AutoEncoder(32, 16, 4), train, test, rng.generator(0, "PCA"))
    mean = flat(synthetic_images, range(90)).mean(0)
    expected = (flat(synthetic_images, range(90, 120)) - mean).abs().mean().item()
    assert (scores.pictures, scores.fitted_on, scores.pca_components) == (30, 90, 16)
    assert scores.mean_picture.l1 == pytest.approx(expected, rel=1e-4)
    assert scores.pca.l1 < scores.mean_picture.l1
    assert np.isfinite([scores.model.l1, scores.model.ssim, scores.model.psnr]).all()
