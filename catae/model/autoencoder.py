"""The convolutional autoencoder: a picture of 3x64x64 to a code of 128x1x1 and back.

Every convolution has a kernel of 4, as in DCGAN (Radford et al. 2016, https://arxiv.org/abs/1511.06434), so that
at stride 2 each pixel is covered by the same number of kernel places; there is no batch normalisation. It computes in
the precision of what comes in, float32 or bfloat16, with weights that stay float32.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from catae.model.layers import KERNEL, Downsample, FromLatent, ToLatent, Upsample
from catae.settings import ModelSettings

Activation = Literal["crelu", "relu"]


class CReLU(nn.Module):
    """The ReLU of a signal, and beside it that of its negative (Shang et al. 2016, https://arxiv.org/abs/1603.05201).

    Nothing of the signal is lost, and each filter serves for both of its signs.
    """

    def forward(self, signal: Tensor) -> Tensor:
        """Channels (batch, 2n, height, width), none below 0, of a signal (batch, n, height, width)."""
        return torch.cat([signal, -signal], 1).relu_()


# For each activation its layer, and how many channels it makes of one.
ACTIVATIONS: dict[Activation, tuple[type[nn.Module], int]] = {"crelu": (CReLU, 2), "relu": (nn.ReLU, 1)}


def filters(image_size: int, width: int) -> list[int]:
    """Filters at each size, from the picture's 3 colours to those at 4x4: [3, 32, 64, 128, 256] for 64 and 32."""
    halvings = image_size.bit_length() - KERNEL.bit_length()
    return [3, *(width * 2**step for step in range(halvings))]


def channels(image_size: int, width: int, activation: Activation) -> list[int]:
    """Channels that go on at each size: [3, 64, 128, 256, 512] for 64, 32 and CReLU, which makes two of each one."""
    _, times = ACTIVATIONS[activation]
    return [3, *(times * count for count in filters(image_size, width)[1:])]


class Encoder(nn.Module):
    """A picture to its code."""

    def __init__(self, image_size: int, latent_dim: int, width: int, activation: Activation) -> None:
        super().__init__()
        given, made = channels(image_size, width, activation), filters(image_size, width)[1:]
        active, _ = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        for count, wanted in zip(given[:-1], made, strict=True):  # for 64x64: 32x32, 16x16, 8x8, 4x4
            layers += [Downsample(count, wanted), active()]
        layers += [ToLatent(given[-1], latent_dim)]  # 128x1x1
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        """Codes (batch, latent_dim, 1, 1) of pictures (batch, 3, size, size) in [-1, 1]."""
        codes: Tensor = self.layers(pictures)
        return codes


class Decoder(nn.Module):
    """A code to a picture."""

    def __init__(self, image_size: int, latent_dim: int, width: int, activation: Activation) -> None:
        super().__init__()
        given, made = channels(image_size, width, activation)[:0:-1], filters(image_size, width)[::-1]
        active, _ = ACTIVATIONS[activation]
        layers: list[nn.Module] = [FromLatent(latent_dim, made[0])]  # 4x4
        for count, wanted in zip(given, made[1:], strict=True):  # for 64x64: 8x8, 16x16, 32x32, 3x64x64
            layers += [active(), Upsample(count, wanted)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures (batch, 3, size, size) in [-1, 1] of codes (batch, latent_dim, 1, 1)."""
        pictures: Tensor = self.layers(codes)
        return pictures


class AutoEncoder(nn.Module):
    """Encoder and decoder.

    Args:
        image_size: height and width of the pictures, in pixels; a power of two, at least 8.
        latent_dim: channels of the code.
        width: filters of the first convolution.
        activation: 'relu', or 'crelu' for that of each signal and of its negative.
    """

    def __init__(
        self, image_size: int = 64, latent_dim: int = 128, width: int = 32, activation: Activation = "crelu"
    ) -> None:
        super().__init__()
        self.image_size, self.latent_dim, self.width, self.activation = image_size, latent_dim, width, activation
        self.encoder = Encoder(image_size, latent_dim, width, activation)
        self.decoder = Decoder(image_size, latent_dim, width, activation)

    @classmethod
    def of(cls, settings: ModelSettings, image_size: int) -> "AutoEncoder":
        """The one that the settings ask for."""
        return cls(image_size, settings.latent_dim, settings.width, settings.activation)

    def forward(self, pictures: Tensor) -> Tensor:
        """Restorations of pictures, both (batch, 3, size, size) in [-1, 1]."""
        restored: Tensor = self.decoder(self.encoder(pictures))
        return restored


def activations(image_size: int, width: int, activation: Activation) -> int:
    """How many numbers a training step keeps of one picture: what goes into each layer, and comes out of the last."""
    sizes = channels(image_size, width, activation)
    halves = sum(count * (image_size >> step) ** 2 for step, count in enumerate(sizes))
    return 2 * halves


def convolutions(model: nn.Module) -> Iterable[nn.Conv2d | nn.ConvTranspose2d]:
    """The layers with weights, in the order of the data."""
    return (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
