"""The space of codes: pictures into it and out of it, random points of it, and walks through it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from catae import files
from catae.batches import Loader, viewable
from catae.decoding import Pixels
from catae.errors import UserError
from catae.model import AutoEncoder

Prior = Literal["randn", "gaussian"]


@torch.inference_mode()
def encode(model: AutoEncoder, loader: Loader) -> Tensor:
    """The codes of the loader's pictures: (pictures, latent_dim, 1, 1)."""
    return torch.cat([model.encoder(batch) for batch in loader])


@torch.inference_mode()
def decode(model: AutoEncoder, codes: Tensor) -> Pixels:
    """The pictures that codes of (count, latent_dim, 1, 1) stand for: uint8 (count, size, size, 3)."""
    return viewable(torch.cat([model.decoder(part) for part in torch.split(codes, 256)]))


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution over codes, with full covariance `factor @ factor.T`.

    Attributes:
        mean: (latent_dim,).
        factor: (latent_dim, latent_dim).
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, codes: Tensor) -> "Gaussian":
        """The Gaussian with the mean and the covariance of codes of (count, latent_dim, 1, 1).

        The factor is the covariance's symmetric root, and not Cholesky's, which fails where there are fewer
        pictures than dimensions.
        """
        points = codes.flatten(1).double()
        mean = points.mean(0)
        covariance = (points - mean).T @ (points - mean) / max(1, len(points) - 1)
        variances, directions = torch.linalg.eigh(covariance)
        factor = directions * variances.clamp(min=0).sqrt() @ directions.T
        return cls(mean.float(), factor.float())

    @classmethod
    def load(cls, path: Path) -> "Gaussian":
        """The Gaussian in the safetensors file `path`.

        Raises:
            UserError: the file can't be read, or holds something else.
        """
        try:
            tensors = load_file(path)
            mean, factor = tensors["mean"].float(), tensors["factor"].float()
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path} is no prior of catae's: {error}") from error
        if factor.shape != (mean.numel(), mean.numel()) or mean.ndim != 1:
            raise UserError(f"{path} is no prior of catae's: its shapes are {(*mean.shape,)} and {(*factor.shape,)}")
        return cls(mean, factor)

    def save(self, path: Path) -> None:
        """Writes it to `path`, as safetensors."""
        files.write_bytes(path, to_bytes({"mean": self.mean, "factor": self.factor.contiguous()}))

    def shape(self, noise: Tensor) -> Tensor:
        """Turns samples of N(0, I) into samples of this Gaussian, both (count, latent_dim, 1, 1)."""
        return (self.mean + noise.flatten(1) @ self.factor.T)[..., None, None]


def randn(count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
    """`count` codes, each as of `torch.randn(1, latent_dim, 1, 1)`: (count, latent_dim, 1, 1).

    They are drawn one by one, so that the first ones don't depend on how many there are.
    """
    return torch.cat([torch.randn(1, latent_dim, 1, 1, generator=generator) for _ in range(count)])


def interpolate(a: Tensor, b: Tensor, steps: int = 50) -> Tensor:
    """The straight walk from code `a` to code `b`: `z = (1 - alpha) * a + alpha * b`, alpha from 0 to 1.

    Args:
        a: (1, latent_dim, 1, 1).
        b: (1, latent_dim, 1, 1).
        steps: how many codes, both ends included; at least 2.

    Returns:
        (steps, latent_dim, 1, 1).
    """
    alpha = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
    return (1 - alpha) * a + alpha * b
