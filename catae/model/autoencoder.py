"""The convolutional autoencoder: images (3, 64, 64) to latents (128, 1, 1) and back.

Every convolution has a kernel size of 4, as in DCGAN (Radford et al. 2016, https://arxiv.org/abs/1511.06434): at stride
2, the kernel then covers each pixel equally often. There is no batch normalization. The model computes in the precision
of its input, float32 or bfloat16; its weights stay float32.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from catae.model.layers import KERNEL, Downsample, FromLatent, Pointwise, ToLatent, Upsample
from catae.settings import ModelSettings

Activation = Literal["crelu", "relu"]


class CReLU(nn.Module):
    """Concatenated ReLU: of the input and of its negative (Shang et al. 2016, https://arxiv.org/abs/1603.05201).

    It preserves all information, and each filter serves both signs.
    """

    def forward(self, signal: Tensor) -> Tensor:
        """Map (batch, n, height, width) to (batch, 2n, height, width)."""
        return torch.cat([signal, -signal], 1).relu_()


# The layer of each activation, and its output channels per input channel.
ACTIVATIONS: dict[Activation, tuple[type[nn.Module], int]] = {"crelu": (CReLU, 2), "relu": (nn.ReLU, 1)}


def filters(image_size: int, width: int) -> list[int]:
    """Return the filters at each size, from the 3 colours to 4x4: [3, 32, 64, 128, 256] for size 64 and width 32."""
    halvings = image_size.bit_length() - KERNEL.bit_length()
    return [3, *(width * 2**step for step in range(halvings))]


def channels(image_size: int, width: int, activation: Activation) -> list[int]:
    """Return the channels after the activation at each size: [3, 64, 128, 256, 512] for size 64, width 32 and CReLU."""
    _, factor = ACTIVATIONS[activation]
    return [3, *(factor * count for count in filters(image_size, width)[1:])]


class Encoder(nn.Module):
    """Maps images to latents."""

    def __init__(self, image_size: int, latent_dim: int, width: int, activation: Activation) -> None:
        super().__init__()
        inputs, outputs = channels(image_size, width, activation), filters(image_size, width)[1:]
        activation_layer, _ = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        for in_channels, out_channels in zip(inputs[:-1], outputs, strict=True):  # of 64x64: 32x32, 16x16, 8x8, 4x4
            layers += [Downsample(in_channels, out_channels), activation_layer()]
        layers += [ToLatent(inputs[-1], latent_dim)]  # 128x1x1
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the latents (batch, latent_dim, 1, 1) of images (batch, 3, size, size) in [-1, 1]."""
        latents: Tensor = self.layers(images)
        return latents


class Decoder(nn.Module):
    """Maps latents to images."""

    def __init__(self, image_size: int, latent_dim: int, width: int, activation: Activation, whitened: bool) -> None:
        super().__init__()
        inputs, outputs = channels(image_size, width, activation)[:0:-1], filters(image_size, width)[::-1]
        activation_layer, factor = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        if whitened:  # 1x1, with a channel for each sign of a dimension after the activation
            layers += [Pointwise(latent_dim, 2 * latent_dim // factor), activation_layer()]
        layers += [FromLatent(2 * latent_dim if whitened else latent_dim, outputs[0])]  # 4x4
        for in_channels, out_channels in zip(inputs, outputs[1:], strict=True):  # to 64x64: 8x8, 16x16, 32x32, 64x64
            layers += [activation_layer(), Upsample(in_channels, out_channels)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """Return the images (batch, 3, size, size) in [-1, 1] of latents (batch, latent_dim, 1, 1)."""
        images: Tensor = self.layers(latents)
        return images


class AutoEncoder(nn.Module):
    """The encoder and the decoder.

    Args:
        image_size: height and width of the images in pixels; a power of two, at least 8.
        latent_dim: dimensions of a latent.
        width: filters of the first convolution.
        activation: 'relu' or 'crelu'.
        whitened: whether the decoder begins with a 1x1 convolution and an activation, which undo the whitening of the
            latents (`latent.whitening`). An exported model has them.
    """

    def __init__(
        self,
        image_size: int = 64,
        latent_dim: int = 128,
        width: int = 32,
        activation: Activation = "relu",
        whitened: bool = False,
    ) -> None:
        super().__init__()
        self.image_size, self.latent_dim, self.width, self.activation = image_size, latent_dim, width, activation
        self.whitened = whitened
        self.encoder = Encoder(image_size, latent_dim, width, activation)
        self.decoder = Decoder(image_size, latent_dim, width, activation, whitened)

    @classmethod
    def from_settings(cls, settings: ModelSettings, image_size: int) -> "AutoEncoder":
        """Return the model that the settings describe."""
        return cls(image_size, settings.latent_dim, settings.width, settings.activation)

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions of images, both (batch, 3, size, size) in [-1, 1]."""
        reconstructions: Tensor = self.decoder(self.encoder(images))
        return reconstructions


def activations(image_size: int, width: int, activation: Activation) -> int:
    """Return the number of activations that a training step stores per image: layer inputs and the final output."""
    sizes = channels(image_size, width, activation)
    halves = sum(count * (image_size >> step) ** 2 for step, count in enumerate(sizes))
    return 2 * halves


def convolutions(model: nn.Module) -> Iterable[nn.Conv2d | nn.ConvTranspose2d]:
    """Return the layers that have weights, in the order of the forward pass."""
    return (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
