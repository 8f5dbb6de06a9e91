"""How well pictures are restored, beside what the simplest restorers reach on the same pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pytorch_msssim import ssim
from torch import Tensor

from catae.data.loader import Loader
from catae.evaluation import pca_baseline
from catae.model.autoencoder import AutoEncoder


@dataclass(frozen=True)
class Scores:
    """Means over pictures.

    Attributes:
        l1: mean absolute error of pixels in [-1, 1], which is the loss.
        l1_unit: the same of pixels in [0, 1].
        psnr: peak signal-to-noise ratio of the mean squared error over all pictures, in dB.
        ssim: structural similarity, at most 1 (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861).
    """

    l1: float
    l1_unit: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Comparison:
    """The model's scores on `pictures` pictures, beside those of a PCA and of the mean picture, fitted on train."""

    pictures: int
    fitted_on: int
    pca_components: int
    model: Scores
    pca: Scores
    mean_picture: Scores


@torch.inference_mode()
def score(loader: Loader, restore: Callable[[Tensor], Tensor]) -> Scores:
    """Scores what `restore` makes of the loader's pictures, both (batch, 3, size, size) in [-1, 1]."""
    count, l1, squares, similarity = 0, 0.0, torch.zeros((), dtype=torch.float64), 0.0
    for batch in loader:
        restored = restore(batch)
        error = restored - batch
        count += len(batch)
        l1 += error.abs().mean().item() * len(batch)
        squares += error.square().mean() * len(batch)
        similarity += ssim((restored + 1) / 2, (batch + 1) / 2, data_range=1.0, size_average=False).sum().item()
    psnr = -10 * torch.log10(squares / 4 / count)  # of pixels in [0, 1]
    return Scores(l1 / count, l1 / count / 2, psnr.item(), similarity / count)


def compare(model: AutoEncoder, train: Loader, test: Loader, generator: torch.Generator) -> Comparison:
    """Scores the model on the test pictures, beside a PCA of as many components as its code has channels."""
    fitted = pca_baseline.fit(train, model.latent_dim, generator)
    model.eval()
    return Comparison(
        pictures=len(test.dataset),  # type: ignore[arg-type]
        fitted_on=len(train.dataset),  # type: ignore[arg-type]
        pca_components=len(fitted.directions),
        model=score(test, model),
        pca=score(test, fitted.restore),
        mean_picture=score(test, lambda batch: fitted.mean.expand_as(batch)),
    )
