"""The weights that training starts from, drawn from a generator of their own."""

import math
from typing import Literal

import torch
from torch import nn

from catae.model.autoencoder import AutoEncoder, convolutions


@torch.no_grad()
def initialize(model: AutoEncoder, init: Literal["torch", "kaiming"], generator: torch.Generator) -> None:
    """Sets every weight of `model`; `mirrored` has the way that learns from pictures.

    'torch' is what PyTorch's layers start with themselves: uniform within 1 / sqrt(fan_in), weights and biases.
    'kaiming' is normal with variance 2 / fan_in and biases of 0, which keeps the activations' variance through
    ReLUs (He et al. 2015, https://arxiv.org/abs/1502.01852).
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
    """How many products each output is a sum of."""
    places = layer.kernel_size[0] * layer.kernel_size[1]
    if isinstance(layer, nn.ConvTranspose2d):
        # Its kernel meets an output in every stride-th place; the one that unfolds the 1x1 code, in a single one.
        places = 1 if layer.stride[0] == 1 else places // (layer.stride[0] * layer.stride[1])
    return layer.in_channels * places
