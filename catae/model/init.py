"""Random initial weights. `model.pca_init` initializes from images instead."""

import math
from typing import Literal

import torch
from torch import nn

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
            bias = nn.init.uniform_(torch.empty(layer.out_channels), -bound, bound, generator=generator)
            layer.bias.copy_(bias.view(-1, *[1] * (layer.bias.ndim - 1)))
        else:
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / _fan_in(layer)), generator=generator)
            nn.init.zeros_(layer.bias)


def _fan_in(layer: nn.Conv2d | nn.ConvTranspose2d) -> float:
    """Return the number of products that each output sums."""
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    if isinstance(layer, nn.ConvTranspose2d):
        # An output gets one product per stride x stride taps; from a 1x1 latent, it gets a single one.
        taps = 1 if layer.stride[0] == 1 else taps // (layer.stride[0] * layer.stride[1])
    return layer.in_channels * taps
