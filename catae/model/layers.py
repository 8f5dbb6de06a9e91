"""The five convolutions of the model: the functions and weights of PyTorch's layers, faster on a CPU.

A layer computes in the precision of its input; its weights stay float32. With bfloat16 images, training is
mixed-precision with float32 master weights (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).

Three computations differ from PyTorch's, as measured in docs/speed.md:

- The gradient of the bias of a transposed convolution is a sum; oneDNN runs a slow loop.
- The gradient of the weights at 4x4 is a matrix product over patches; oneDNN reaches a quarter of its speed.
- The convolutions to and from 1x1, which cover their whole input or output, are matrix products.
"""

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_weight

KERNEL = 4  # as `model.autoencoder` explains
SMALL = 4  # largest side of a map for which the gradient of the weights is a matrix product


class Downsample(nn.Conv2d):
    """A convolution of stride 2 that halves height and width: (batch, in, 2h, 2w) to (batch, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=2, padding=1)

    def forward(self, fine: Tensor) -> Tensor:
        """Return the output of `nn.Conv2d`."""
        coarse: Tensor = _DownsampleFunction.apply(fine, *_weights(self, fine))
        return coarse


class Upsample(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 that doubles height and width: (batch, in, h, w) to (batch, out, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=2, padding=1)

    def forward(self, coarse: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the output of `nn.ConvTranspose2d`; `output_size` is ignored, since only one is possible."""
        fine: Tensor = _UpsampleFunction.apply(coarse, *_weights(self, coarse))
        return fine


class ToLatent(nn.Conv2d):
    """A convolution that covers its whole input: (batch, in, 4, 4) to (batch, out, 1, 1)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL)

    def forward(self, coarse: Tensor) -> Tensor:
        """Return the output of `nn.Conv2d`."""
        weight, bias = _weights(self, coarse)
        latent = functional.linear(coarse.permute(0, 2, 3, 1).flatten(1), _rows(weight), bias)
        return latent[:, :, None, None]


class Pointwise(nn.ConvTranspose2d):
    """A transposed convolution of kernel size 1 for a single position: (batch, in, 1, 1) to (batch, out, 1, 1)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, latent: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the output of `nn.ConvTranspose2d`; `output_size` is ignored, since only one is possible."""
        weight, bias = _weights(self, latent)
        return functional.linear(latent.flatten(1), weight.flatten(1).t(), bias)[:, :, None, None]


class FromLatent(nn.ConvTranspose2d):
    """A transposed convolution of a single position: (batch, in, 1, 1) to (batch, out, 4, 4)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL)

    def forward(self, latent: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the output of `nn.ConvTranspose2d`; `output_size` is ignored, since only one is possible."""
        weight, bias = _weights(self, latent)
        coarse = functional.linear(latent.flatten(1), _rows(weight).t(), bias.repeat(KERNEL**2))
        return coarse.view(-1, KERNEL, KERNEL, self.out_channels).permute(0, 3, 1, 2)


class _DownsampleFunction(Function):
    @staticmethod
    def forward(ctx: Any, fine: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(fine, weight)
        return functional.conv2d(fine, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        fine, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[0]  # not for images
        fine_gradient = functional.conv_transpose2d(gradient, weight, stride=2, padding=1) if needed else None
        return fine_gradient, _weight_gradient(fine, gradient), gradient.sum((0, 2, 3))


class _UpsampleFunction(Function):
    @staticmethod
    def forward(ctx: Any, coarse: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(coarse, weight)
        return functional.conv_transpose2d(coarse, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse, weight = ctx.saved_tensors
        coarse_gradient = functional.conv2d(gradient, weight, stride=2, padding=1)
        return coarse_gradient, _weight_gradient(gradient, coarse), gradient.sum((0, 2, 3))


def _weight_gradient(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return the gradient of the weights between two maps: (coarse channels, fine channels, 4, 4).

    One map is the input of the layer, the other the gradient of its output. A convolution and a transposed convolution
    differ in which is which; the result is the same.
    """
    shape = (coarse.shape[1], fine.shape[1], KERNEL, KERNEL)
    if coarse.shape[-1] > SMALL:
        gradient: Tensor = conv2d_weight(fine, shape, coarse, stride=2, padding=1)  # type: ignore[no-untyped-call]
        return gradient
    product = coarse.permute(0, 2, 3, 1).flatten(0, 2).t() @ patches(fine)
    return product.view(shape[0], KERNEL, KERNEL, shape[1]).permute(0, 3, 1, 2)


def patches(signal: Tensor, kernel: int = KERNEL, stride: int = 2, padding: int = 1) -> Tensor:
    """Return the patch under a kernel at each position, as a row with the channels of a pixel next to each other.

    On channels-last maps this takes a fifth to a half of the time of `torch.nn.Unfold`.

    Args:
        signal: (batch, channels, height, width).
        kernel: height and width of the kernel.
        stride: pixels between positions.
        padding: zeros around the signal.

    Returns:
        (batch * positions, kernel * kernel * channels).
    """
    padded = functional.pad(signal.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # batch, h, w, channels, kernel h, kernel w
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


def _rows(weight: Tensor) -> Tensor:
    """Return weights (a, b, 4, 4) as a matrix (a, 16 * b) in channels-last order; a view if they are channels-last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _weights(layer: nn.Conv2d | nn.ConvTranspose2d, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a layer in the precision of its input."""
    assert layer.bias is not None
    return layer.weight.to(signal.dtype), layer.bias.to(signal.dtype)
