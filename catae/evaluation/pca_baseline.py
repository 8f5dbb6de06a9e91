"""Principal components of pictures: the best linear autoencoder of a given code size, to compare with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catae.data.loader import Loader
from catae.model.linalg import principal

OVERSAMPLING = 32
ITERATIONS = 6


@dataclass(frozen=True)
class PCA:
    """A mean picture and the directions in which pictures vary most.

    Attributes:
        mean: (3, size, size).
        directions: (components, size * size * 3), orthonormal rows, the largest variance first, in the order of
            channels-last pictures.
    """

    mean: Tensor
    directions: Tensor

    def restore(self, pictures: Tensor) -> Tensor:
        """Pictures projected onto the components and back, clamped to [-1, 1]: (batch, 3, size, size)."""
        projected = _rows(pictures - self.mean) @ self.directions.T @ self.directions
        height, width = pictures.shape[2:]
        return (self.mean + projected.view(-1, height, width, 3).permute(0, 3, 1, 2)).clamp(-1, 1)


@torch.inference_mode()
def fit(loader: Loader, components: int, generator: torch.Generator) -> PCA:
    """The PCA of the loader's pictures, in passes over them, so that memory doesn't grow with their number.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061, algorithm
    4.4). With 32 further directions and 6 passes it keeps the same share of the variance as an exact PCA, to 4 digits.
    scikit-learn's `PCA` and PyTorch's `svd_lowrank` need all images as floats in memory. `IncrementalPCA` does not, but
    is slower and less exact. With 128 components and batches of 512 images of 64x64 it takes 3.9 times the CPU time.
    Fitted on 14,061 images, its test L1 is 0.1161, and this one's is 0.1156: it would be a weaker baseline.

    Args:
        loader: gives (batch, 3, size, size), the same pictures each time that it is gone through.
        components: how many; as many as the pictures span, if that is less.
        generator: for the directions to start from.
    """
    count = 0
    total: Tensor = torch.zeros(())
    for batch in loader:
        count += len(batch)
        total = total + batch.sum(0, dtype=torch.float64)
    mean = (total / count).float()
    pixels = mean.numel()
    subspace = min(components + OVERSAMPLING, count, pixels)

    directions = torch.linalg.qr(torch.randn(pixels, subspace, generator=generator)).Q
    for _ in range(ITERATIONS):
        image = torch.zeros(pixels, subspace)
        for batch in loader:
            centred = _rows(batch - mean)
            image.addmm_(centred.T, centred @ directions)
        directions = torch.linalg.qr(image).Q

    gram = torch.zeros(subspace, subspace, dtype=torch.float64)
    for batch in loader:
        codes = (_rows(batch - mean) @ directions).double()
        gram += codes.T @ codes
    rotation, _ = principal(gram, components)
    return PCA(mean, (directions @ rotation.T.float()).T.contiguous())


def _rows(pictures: Tensor) -> Tensor:
    """Pictures (batch, 3, size, size) as rows of numbers, without a copy where they are channels-last."""
    return pictures.permute(0, 2, 3, 1).flatten(1)
