"""The PCA baseline: the best linear autoencoder, in squared error, for a given number of latent dimensions."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from catae.model.linalg import principal

OVERSAMPLING = 32
ITERATIONS = 6


@dataclass(frozen=True)
class PCA:
    """The principal components of images.

    Attributes:
        mean: the mean image, (3, size, size).
        directions: (components, size * size * 3), orthonormal rows in order of decreasing variance. The columns are in
            the order of channels-last images.
    """

    mean: Tensor
    directions: Tensor

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the projections of images onto the components, clamped to [-1, 1]: (batch, 3, size, size)."""
        projected = _rows(images - self.mean) @ self.directions.T @ self.directions
        height, width = images.shape[2:]
        return (self.mean + projected.view(-1, height, width, 3).permute(0, 3, 1, 2)).clamp(-1, 1)


@torch.inference_mode()
def fit_pca(batches: Iterable[Tensor], components: int, generator: torch.Generator) -> PCA:
    """Return the PCA of images, with memory independent of their number.

    Randomized subspace iteration (Halko, Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061, algorithm 4.4)
    reads the images batch by batch, 8 times. With 32 extra directions and 6 iterations it keeps the same share of the
    variance as an exact PCA, to 4 digits. scikit-learn's `PCA` and PyTorch's `svd_lowrank` need all images as floats in
    memory. `IncrementalPCA` does not, but is slower and less exact. With 128 components and batches of 512 images of
    64x64 it takes 3.9 times the CPU time. Fitted on 14,061 images, its test L1 is 0.1161, and this one's is 0.1156: it
    would be a weaker baseline.

    Args:
        batches: (batch, 3, size, size); iterated over several times, with the same images each time.
        components: number of components; fewer are returned if the images span fewer.
        generator: draws the initial directions.
    """
    count = 0
    total: Tensor = torch.zeros(())
    for batch in batches:
        count += len(batch)
        total = total + batch.sum(0, dtype=torch.float64)
    mean = (total / count).float()
    pixels = mean.numel()
    subspace = min(components + OVERSAMPLING, count, pixels)

    directions = torch.linalg.qr(torch.randn(pixels, subspace, generator=generator)).Q
    for _ in range(ITERATIONS):
        product = torch.zeros(pixels, subspace)
        for batch in batches:
            centred = _rows(batch - mean)
            product.addmm_(centred.T, centred @ directions)
        directions = torch.linalg.qr(product).Q

    gram = torch.zeros(subspace, subspace, dtype=torch.float64)
    for batch in batches:
        projected = (_rows(batch - mean) @ directions).double()
        gram += projected.T @ projected
    rotation, _ = principal(gram, components)
    return PCA(mean, (directions @ rotation.T.float()).T.contiguous())


def _rows(images: Tensor) -> Tensor:
    """Return images (batch, 3, size, size) as rows, without a copy if they are channels-last."""
    return images.permute(0, 2, 3, 1).flatten(1)
