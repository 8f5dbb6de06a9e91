"""Random initial weights. `model.pca_init` initializes from images instead."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from catae.model.autoencoder import AutoEncoder, convolutions


@torch.no_grad()
def initialize(model: AutoEncoder, init: Literal["torch", "kaiming"], generator: torch.Generator) -> None:
    """Set every weight of the model.

    Args:
        model: the model.
        init: 'torch' for the defaults of PyTorch's layers: weights and biases uniform within 1 / sqrt(fan_in).
            'kaiming' for normal weights of variance 2 / fan_in and biases of 0, which preserve the variance of the
            activations through ReLUs (He et al. 2015, https://arxiv.org/abs/1502.01852).
        generator: draws the weights.
    """
    for layer in convolutions(model):
        assert layer.bias is not None
        if init == "torch":
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(layer.weight)[0])
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        else:
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_in(layer)), generator=generator)
            nn.init.zeros_(layer.bias)


def fan_in(layer: nn.Conv2d | nn.ConvTranspose2d) -> float:
    """Return the number of products that each output sums."""
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    if isinstance(layer, nn.ConvTranspose2d):
        # An output gets one product per stride x stride taps; from a 1x1 latent, it gets a single one.
        taps = 1 if layer.stride[0] == 1 else taps // (layer.stride[0] * layer.stride[1])
    return layer.in_channels * taps


@torch.no_grad()
def set_signed(layer: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    """Set the weights of a layer; where it has two channels per signal, the second gets the negative weights."""
    assert layer.bias is not None
    for old, new in ((layer.weight, weight), (layer.bias, bias)):
        for dim in range(new.ndim):
            if old.shape[dim] == 2 * new.shape[dim]:
                new = torch.cat([new, -new], dim)
        old.copy_(new)
