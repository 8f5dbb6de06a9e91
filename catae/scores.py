"""How well pictures are restored, beside what the simplest restorers reach on the same pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from catae import pca
from catae.batches import Loader
from catae.model import AutoEncoder

BORDER = 5  # pixels, half of SSIM's window of 11
AT_A_TIME = 32  # pictures; SSIM takes 4 MB for each of 64x64, and a batch of 256 would take 1.1 GB


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
    psnr = PeakSignalNoiseRatio(data_range=1.0)
    l1 = ssim = 0.0
    count = 0
    for batch in loader:
        pictures, restored = batch, restore(batch)  # channels-last, in which SSIM takes a third of the time
        l1 += (restored - pictures).abs().mean().item() * len(batch)
        pictures, restored = (pictures + 1) / 2, (restored + 1) / 2
        psnr.update(restored, pictures)
        for few, originals in zip(torch.split(restored, AT_A_TIME), torch.split(pictures, AT_A_TIME), strict=True):
            _, similarity = structural_similarity_index_measure(
                few, originals, data_range=1.0, reduction="none", return_full_image=True
            )
            # torchmetrics mirrors the pictures at their borders; the definition has only windows that lie inside.
            inside = similarity[..., BORDER:-BORDER, BORDER:-BORDER]
            ssim += inside.mean((1, 2, 3)).sum().item()
        count += len(batch)
    return Scores(l1 / count, l1 / count / 2, psnr.compute().item(), ssim / count)


def compare(model: AutoEncoder, train: Loader, test: Loader, generator: torch.Generator) -> Comparison:
    """Scores the model on the test pictures, beside a PCA of as many components as its code has channels."""
    fitted = pca.fit(train, model.latent_dim, generator)
    model.eval()
    return Comparison(
        pictures=len(test.dataset),  # type: ignore[arg-type]
        fitted_on=len(train.dataset),  # type: ignore[arg-type]
        pca_components=len(fitted.directions),
        model=score(test, model),
        pca=score(test, fitted.restore),
        mean_picture=score(test, lambda batch: fitted.mean.expand_as(batch)),
    )
