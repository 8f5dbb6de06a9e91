"""The four kinds of convolution of the model: PyTorch's layers, weights and function, in less time on a CPU.

A layer computes in the precision of what comes in, with weights that stay float32: pictures in bfloat16 make it a
training in mixed precision with float32 master weights (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).

What is computed in another way than PyTorch would, and why, is measured in docs/speed.md:

- the gradient of a transposed convolution's bias is a sum, where oneDNN goes through a slow loop of its own;
- the gradient of the weights at 4x4, where oneDNN reaches a quarter of what a matrix product over patches does;
- the convolutions to and from the 1x1 code, which cover the whole of their input, are plain matrix products.
"""

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

KERNEL = 4  # `model` says why
SMALL = 4  # the map's side up to which the gradient of the weights is a matrix product


class Downsample(nn.Conv2d):
    """A convolution that halves height and width: (batch, in, 2h, 2w) to (batch, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=2, padding=1)

    def forward(self, fine: Tensor) -> Tensor:
        """What `nn.Conv2d` gives."""
        coarse: Tensor = _Halve.apply(fine, *_weights(self, fine))
        return coarse


class Upsample(nn.ConvTranspose2d):
    """A transposed convolution that doubles height and width: (batch, in, h, w) to (batch, out, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=2, padding=1)

    def forward(self, coarse: Tensor, output_size: list[int] | None = None) -> Tensor:
        """What `nn.ConvTranspose2d` gives; there is one output size."""
        fine: Tensor = _Double.apply(coarse, *_weights(self, coarse))
        return fine


class ToLatent(nn.Conv2d):
    """A convolution over all of a map: (batch, in, 4, 4) to (batch, out, 1, 1)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL)

    def forward(self, coarse: Tensor) -> Tensor:
        """What `nn.Conv2d` gives."""
        weight, bias = _weights(self, coarse)
        code = functional.linear(coarse.permute(0, 2, 3, 1).flatten(1), _rows(weight), bias)
        return code[:, :, None, None]


class FromLatent(nn.ConvTranspose2d):
    """A transposed convolution from a single place: (batch, in, 1, 1) to (batch, out, 4, 4).

    It has a bias for each of the 4x4 places, (out, 4, 4), where PyTorch's has one for all: so it is any affine map of
    the code, and one that shifts the code can be made up for (`whitening`).
    """

    bias: nn.Parameter

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL)
        self.bias = nn.Parameter(self.bias.detach()[:, None, None].repeat(1, KERNEL, KERNEL))

    def forward(self, code: Tensor, output_size: list[int] | None = None) -> Tensor:
        """What `nn.ConvTranspose2d` without a bias gives, and the bias; there is one output size."""
        weight, bias = _weights(self, code)
        coarse = functional.linear(code.flatten(1), _rows(weight).t(), bias.permute(1, 2, 0).flatten())
        return coarse.view(-1, KERNEL, KERNEL, self.out_channels).permute(0, 3, 1, 2)


class _Halve(Function):
    @staticmethod
    def forward(ctx: Any, fine: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(fine, weight)
        return functional.conv2d(fine, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        fine, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]  # nobody asks for the pictures' own
        of_fine = functional.conv_transpose2d(gradient, weight, stride=2, padding=1) if wanted else None
        return of_fine, _weight_gradient(fine, gradient), gradient.sum((0, 2, 3))


class _Double(Function):
    @staticmethod
    def forward(ctx: Any, coarse: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(coarse, weight)
        return functional.conv_transpose2d(coarse, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse, weight = ctx.saved_tensors
        of_coarse = functional.conv2d(gradient, weight, stride=2, padding=1)
        return of_coarse, _weight_gradient(gradient, coarse), gradient.sum((0, 2, 3))


def _weight_gradient(fine: Tensor, coarse: Tensor) -> Tensor:
    """The gradient of the weights between two maps, (coarse channels, fine channels, 4, 4).

    One of the maps is what went into the layer, the other is the gradient of what came out: which is which makes
    the difference between a convolution and a transposed one, and none to this.
    """
    shape = (coarse.shape[1], fine.shape[1], KERNEL, KERNEL)
    if coarse.shape[-1] > SMALL:
        gradient: Tensor = conv2d_weight(fine, shape, coarse, stride=2, padding=1)  # type: ignore[no-untyped-call]
        return gradient
    product = coarse.permute(0, 2, 3, 1).flatten(0, 2).t() @ patches(fine)
    return product.view(shape[0], KERNEL, KERNEL, shape[1]).permute(0, 3, 1, 2)


def patches(signal: Tensor, kernel: int = KERNEL, stride: int = 2, padding: int = 1) -> Tensor:
    """What a kernel sees at each of its places, a row each, the channels of a pixel beside each other.

    On channels-last maps that takes a fifth to a half of the time of `torch.nn.Unfold`.

    Args:
        signal: (batch, channels, height, width).
        kernel: its height and width.
        stride: pixels from place to place.
        padding: zeros around the signal.

    Returns:
        (batch * places, kernel * kernel * channels).
    """
    padded = functional.pad(signal.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
    seen = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # batch, h, w, channels, kernel's h and w
    return seen.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


def _rows(weight: Tensor) -> Tensor:
    """The weights (a, b, 4, 4) as a matrix (a, 16 * b), in the order of channels-last maps; a view if they are so."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _weights(layer: nn.Conv2d | nn.ConvTranspose2d, like: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias, in the precision of what it is given."""
    assert layer.bias is not None
    return layer.weight.to(like.dtype), layer.bias.to(like.dtype)
