"""Reconstruction scores of the model, next to those of a PCA and of the mean image."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from pytorch_msssim import ssim
from torch import Tensor

from catae.data.loader import Loader
from catae.evaluation.pca_baseline import fit_pca
from catae.model.autoencoder import AutoEncoder


@dataclass(frozen=True)
class Scores:
    """Reconstruction scores, averaged over images.

    Attributes:
        l1: mean absolute error of pixels in [-1, 1]; the training loss.
        l1_unit: mean absolute error of pixels in [0, 1].
        psnr: peak signal-to-noise ratio in dB, of the mean squared error over all images.
        ssim: structural similarity, at most 1 (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861).
    """

    l1: float
    l1_unit: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class BaselineComparison:
    """Scores of the model and of two baselines fitted to the train images, on the same test images.

    Attributes:
        pictures: number of test images.
        fitted_on: number of train images.
        pca_components: number of components of the PCA.
        model: scores of the model.
        pca: scores of the PCA.
        mean_picture: scores of the mean image.
    """

    pictures: int
    fitted_on: int
    pca_components: int
    model: Scores
    pca: Scores
    mean_picture: Scores


@torch.inference_mode()
def score(batches: Iterable[Tensor], reconstruct: Callable[[Tensor], Tensor]) -> Scores:
    """Return the scores of `reconstruct` on batches of images, both (batch, 3, size, size) in [-1, 1]."""
    count, l1, squares, similarity = 0, 0.0, torch.zeros((), dtype=torch.float64), 0.0
    for batch in batches:
        reconstructions = reconstruct(batch)
        error = reconstructions - batch
        count += len(batch)
        l1 += error.abs().mean().item() * len(batch)
        squares += error.square().mean() * len(batch)
        similarity += ssim((reconstructions + 1) / 2, (batch + 1) / 2, data_range=1.0, size_average=False).sum().item()
    psnr = -10 * torch.log10(squares / 4 / count)  # a quarter: of pixels in [0, 1]
    return Scores(l1 / count, l1 / count / 2, psnr.item(), similarity / count)


def score_against_baselines(
    model: AutoEncoder, train: Loader, test: Loader, generator: torch.Generator
) -> BaselineComparison:
    """Return the scores of the model, of a PCA with as many components as latent dimensions, and of the mean image.

    Args:
        model: the model.
        train: the images that the baselines are fitted to.
        test: the images to reconstruct.
        generator: initializes the PCA.
    """
    pca = fit_pca(train, model.latent_dim, generator)
    model.eval()
    return BaselineComparison(
        pictures=len(test.dataset),  # type: ignore[arg-type]
        fitted_on=len(train.dataset),  # type: ignore[arg-type]
        pca_components=len(pca.directions),
        model=score(test, model),
        pca=score(test, pca.reconstruct),
        mean_picture=score(test, lambda batch: pca.mean.expand_as(batch)),
    )
