"""Initialization as a linear autoencoder: principal components, layer by layer.

Hidden channels come in pairs, the ReLU of a signal and of its negative. The next layer weighs a pair by `[V, -V]`. It
thus carries a signed signal, and the model is linear at first ("looks-linear", Balduzzi et al. 2017,
https://arxiv.org/abs/1702.08591). With CReLU a pair is one filter; with ReLU it is two, `[[V, -V], [-V, V]]`.

V comes from images (data-dependent initialization, Krähenbühl et al. 2016, https://arxiv.org/abs/1511.06856):

- In the encoder, V holds the leading principal directions of the patches under the kernel, scaled to a mean square of 1
  over all directions. In the last layer, each direction is scaled to a mean square of 9.
- In the decoder, V is the least-squares map from the layer's input to the encoder's signal of the same size, and in the
  last layer to atanh of the pixels.

Only the ratios of the hidden signals are free then. They are chosen so that Adam's steps move all layers equally far.
"""

import logging
import time
from collections.abc import Iterable
from itertools import pairwise, product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from catae.model.autoencoder import ACTIVATIONS, AutoEncoder, channels, convolutions
from catae.model.init import fan_in, set_signed
from catae.model.layers import KERNEL, ToLatent, patches
from catae.model.linalg import principal, signed
from catae.system.text import count

logger = logging.getLogger(__name__)

IMAGES = 1024  # twice as many take twice the time and memory, without a lower loss after one epoch
FEW_IMAGES = 256  # enough where each image gives many patches
PATCHES = 16_384  # patches per layer, at least: 16 of each of 1,024 images, on the smallest map
BATCH = 64  # images: their patches take 4 times their memory
RIDGE = 1e-3  # of the mean square of the features, against noise; with 1e-4 and 1e-2 the first epoch ends worse
LATENT_RMS = 3  # root mean square of each latent dimension; with 1, the first steps of Adam undo more
FLOOR = 1e-6  # of the largest mean square: constant directions are not amplified
LIMIT = 0.97  # of pixels that are targets: atanh(1) is infinite


def possible(model: AutoEncoder, images: int) -> bool:
    """Return whether so many images give every pair of channels, and every latent dimension, its own direction."""
    odd = model.activation == "relu" and model.width % 2 == 1
    return not odd and _pairs(model)[0] <= 3 * KERNEL**2 and images >= model.latent_dim


def sample_size(model: AutoEncoder) -> int:
    """Return the number of train images to initialize from, if there are as many."""
    return max(IMAGES, model.latent_dim)


def initialize(model: AutoEncoder, images: Tensor) -> bool:
    """Set every weight of the model, or log a warning and leave it unchanged where that is not `possible`.

    Args:
        model: the model.
        images: train images, float32 (`sample_size`, 3, size, size) in [-1, 1].

    Returns:
        Whether the model is initialized.
    """
    if not possible(model, len(images)):
        logger.warning(
            "CATAE_INIT=pca needs a CATAE_WIDTH of at most 48 (with CATAE_ACTIVATION=relu, an even one of at most 96) "
            "and at least CATAE_LATENT_DIM train images: using the `kaiming` initialization instead"
        )
        return False
    start = time.perf_counter()
    _initialize(model, images)
    logger.info(
        "initialized a linear autoencoder from %s in %.0f s", count(len(images), "image"), time.perf_counter() - start
    )
    return True


@torch.no_grad()
def _initialize(model: AutoEncoder, images: Tensor) -> None:
    *downsamples, to_latent = convolutions(model.encoder)
    from_latent, *upsamples = convolutions(model.decoder)
    signals = [images]  # the signed signal of each size, with half as many channels as the layer's activation
    for pairs, layer in zip(_pairs(model), downsamples, strict=True):
        weight, bias = _principal_filters(signals[-1], pairs)
        set_signed(layer, weight, bias)
        signals.append(functional.conv2d(signals[-1], weight, bias, stride=2, padding=1))

    # Not centred: the mean differs between the 4x4 positions, and a bias does not. The first direction carries it.
    smallest = signals.pop()
    directions, squares = _principal_rows(smallest.flatten(1), model.latent_dim)
    scales = LATENT_RMS * squares.clamp(min=FLOOR * squares[0]).rsqrt()
    weight = (directions * scales[:, None]).view(-1, *smallest.shape[1:])
    set_signed(to_latent, weight, torch.zeros(model.latent_dim))
    latents = functional.conv2d(smallest, weight)

    weight = _least_squares([latents.flatten(1)], [smallest.flatten(1)]).view(weight.shape)
    set_signed(from_latent, weight, torch.zeros(smallest.shape[1]))
    signal = functional.conv_transpose2d(latents, weight)
    for layer in upsamples:
        target = signals.pop() if len(signals) > 1 else images.clamp(-LIMIT, LIMIT).atanh()
        weight, bias = _inverse_filters(signal, target)
        set_signed(layer, weight, bias)
        signal = functional.conv_transpose2d(signal, weight, bias, stride=2, padding=1)
    _balance(model, images[:FEW_IMAGES])


def _balance(model: AutoEncoder, images: Tensor) -> None:
    """Rescale the hidden signals so that Adam's steps move channels and layers equally far.

    The model stays the same function.
    """
    _balance_channels(model, images)
    _balance_layers(model, images)


def _balance_channels(model: AutoEncoder, images: Tensor) -> None:
    """Divide each hidden signal whose root mean square is above 1 by it, and multiply the next layer's weights by it.

    The first principal components are 10 times as large as most. A step of Adam is equally long for each weight, so it
    would move the model 10 times as far along them. Without this, one of two trainings on real cats diverged.
    """
    _, factor = ACTIVATIONS[model.activation]
    layers = [*convolutions(model)]
    following = dict(pairwise(layers))
    values = images
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        values = layer(values)
        if layer not in following or isinstance(layer, ToLatent):
            continue
        scale = values.square().mean((0, 2, 3)).sqrt().clamp(min=1)
        values = values / scale[:, None, None]
        layer.weight /= _per_channel(layer, "out", scale)
        layer.bias /= scale
        after = following[layer]
        after.weight *= _per_channel(after, "in", scale.repeat(factor))


def _balance_layers(model: AutoEncoder, images: Tensor) -> None:
    """Scale each hidden signal so that a step of Adam changes every layer's output by about the same fraction.

    Adam changes each weight by the learning rate at first, and so the output of a layer by up to the learning rate
    times the sum of its inputs' absolute values. The scale of a hidden signal thus acts as a learning rate of the
    layers before and after it (Yang et al. 2021, https://arxiv.org/abs/2203.03466). The product of all fractions is
    fixed; their sum, and the largest, are smallest if they are equal. With all signals near 1, the first step changed
    one layer's output by half, and raised the loss from 0.14 to 0.22.
    """
    layers = [*convolutions(model)]
    fractions = []
    values = images
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        inputs, values = values, layer(values)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            fractions.append(fan_in(layer) * inputs.abs().mean() / values.square().mean().sqrt())
    mean = torch.stack(fractions).log().mean().exp()
    scale = torch.ones(())  # of the layer's input
    for layer, fraction in zip(layers, fractions, strict=True):
        assert layer.bias is not None
        layer.weight *= fraction / mean
        scale = scale * fraction / mean
        layer.bias *= scale


def _per_channel(layer: nn.Module, end: Literal["in", "out"], values: Tensor) -> Tensor:
    """Return one value per input or output channel, in a shape that broadcasts to the weights of a layer."""
    first = (end == "in") == isinstance(layer, nn.ConvTranspose2d)
    return values.view(-1, 1, 1, 1) if first else values.view(1, -1, 1, 1)


def _pairs(model: AutoEncoder) -> list[int]:
    """Return the number of pairs of channels after each layer of the encoder but the last."""
    return [count // 2 for count in channels(model.image_size, model.width, model.activation)[1:]]


def _principal_filters(signal: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a downsampling layer: the leading principal directions of the patches of its input."""
    total = second = torch.zeros((), dtype=torch.float64)
    per_image = signal.shape[2] * signal.shape[3] // 4  # at stride 2
    signal = signal[: _images_for(per_image)]
    for batch in torch.split(signal, BATCH):
        rows = patches(batch)
        total, second = total + rows.sum(0).double(), second + (rows.T @ rows).double()
    mean = total / (per_image * len(signal))
    directions, squares = principal(second / (per_image * len(signal)) - mean.outer(mean), count)
    # A common scale: with a mean square of 1 in each direction, noise would weigh as much in the next layer as content.
    directions = directions / squares.mean().sqrt()
    weight = directions.view(count, KERNEL, KERNEL, -1).permute(0, 3, 1, 2)
    return weight.float(), (-directions @ mean).float()


def _images_for(patches_per_image: int) -> int:
    """Return the number of images that give enough patches."""
    return max(FEW_IMAGES, PATCHES // patches_per_image)


def _principal_rows(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the directions of largest mean square of rows (n, features), and the mean squares.

    They come from the products of the rows with each other, which are fewer: a 4x4 map has 4,096 features, and the
    eigenvectors of a matrix of that size take 20 s.

    Returns:
        (count, features) and (count,).
    """
    weights, squares = principal((rows.double() @ rows.T.double()) / len(rows), count)
    return signed(functional.normalize(weights @ rows.double())).float(), squares.float()


def _inverse_filters(signal: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of an upsampling layer: the least-squares map from a signal to a target of twice its size.

    2x2 taps of the kernel reach each pixel of the target; they differ between even and odd rows and columns.
    """
    side, channels = signal.shape[-1], signal.shape[1]
    signal, target = signal[: _images_for(side**2)], target[: _images_for(side**2)]
    bias = target.mean((0, 2, 3))
    weight = torch.zeros(channels, target.shape[1], KERNEL, KERNEL)
    padded = functional.pad(signal, (1, 1, 1, 1))
    for row, column in product((0, 1), (0, 1)):
        window = padded[:, :, row : row + side + 1, column : column + side + 1]
        pixels = target[:, :, row::2, column::2] - bias[:, None, None]
        solution = _least_squares(
            (patches(batch, kernel=2, stride=1, padding=0) for batch in torch.split(window, BATCH)),
            (batch.permute(0, 2, 3, 1).flatten(0, 2) for batch in torch.split(pixels, BATCH)),
        )
        # The first row of the window belongs to row 3 - `row` of the kernel, the second to row 1 - `row`.
        kernel = solution.view(2, 2, channels, -1).permute(2, 3, 0, 1).flip(2, 3)
        weight[:, :, 1 - row :: 2, 1 - column :: 2] = kernel
    return weight, bias


def _least_squares(features: Iterable[Tensor], targets: Iterable[Tensor]) -> Tensor:
    """Return the matrix (f, t) of the regression of targets (n, t) on features (n, f), both in batches."""
    gram = cross = torch.zeros((), dtype=torch.float64)
    for x, y in zip(features, targets, strict=True):
        gram, cross = gram + (x.T @ x).double(), cross + (x.T @ y).double()
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(gram + ridge, cross)
    return solution.float()
