"""The weights of a net that starts out as a linear autoencoder: principal components, layer by layer.

Hidden channels come in pairs, the ReLU of a signal and that of its negative, which the next layer weighs by `[V, -V]`:
a pair carries a signed signal, and the net is linear at first ("looks-linear", Balduzzi et al. 2017,
https://arxiv.org/abs/1702.08591). With CReLU a pair is one filter; with ReLU it is two, `[[V, -V], [-V, V]]`. Each
layer of the encoder has for V the leading principal directions of what its kernel sees, scaled to a mean square of 1
over all of them, and in the code to one of 9 each for itself (data-dependent initialisation, Krähenbühl et al. 2016,
https://arxiv.org/abs/1511.06856). Each layer of the decoder has, by least squares, what leads from its input back to
the encoder's signal of the same size, and the last one to atanh of the pixels.
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
from catae.model.layers import KERNEL, ToLatent, patches
from catae.model.linalg import principal, signed
from catae.system.text import count

logger = logging.getLogger(__name__)

IMAGES = 1024  # to learn from: twice as many take twice the time and memory, and win nothing after an epoch
FEW = 256  # of them, which are enough where each is seen in many places
SEEN = 16_384  # places in which a kernel is looked through, at least: 16 each of 1,024 pictures, on the smallest map
AT_A_TIME = 64  # pictures: what the kernels see of them takes 4 times their memory
RIDGE = 1e-3  # of the features' mean square, so that least squares follows no noise; 1e-4 and 1e-2 end an epoch worse
CODE = 3  # root mean square of each number of the code; with 1, Adam's first steps undo more
FLOOR = 1e-6  # of the largest mean square, so that a direction in which nothing varies isn't blown up
LIMIT = 0.97  # of a pixel whose atanh is a target: that of 1 is infinite


def possible(model: AutoEncoder, images: int) -> bool:
    """Return whether so many images give every pair of channels, and every latent dimension, its own direction."""
    odd = model.activation == "relu" and model.width % 2 == 1
    return not odd and _pairs(model)[0] <= 3 * KERNEL**2 and images >= model.latent_dim


def sample_size(model: AutoEncoder) -> int:
    """Return the number of training images to initialize from; fewer do where the training set has fewer."""
    return max(IMAGES, model.latent_dim)


def initialize(model: AutoEncoder, images: Tensor) -> bool:
    """Set every weight of the model, or log a warning and leave it unchanged where that is not `possible`.

    Args:
        model: the model.
        images: training images, float32 (`sample_size`, 3, size, size) in [-1, 1].

    Returns:
        Whether the model is initialized.
    """
    if not possible(model, len(images)):
        logger.warning(
            "CATAE_INIT=pca needs a CATAE_WIDTH of at most 48 (with CATAE_ACTIVATION=relu, an even one of at most 96) "
            "and at least CATAE_LATENT_DIM training images: using the `kaiming` initialization instead"
        )
        return False
    start = time.perf_counter()
    _initialize(model, images)
    logger.info(
        "initialized a linear autoencoder from %s in %.0f s", count(len(images), "image"), time.perf_counter() - start
    )
    return True


@torch.no_grad()
def _initialize(model: AutoEncoder, pictures: Tensor) -> None:
    *halvings, to_code = convolutions(model.encoder)
    from_code, *doublings = convolutions(model.decoder)
    signals = [pictures]  # signed, of each size, in half as many channels as go on from there
    for pairs, layer in zip(_pairs(model), halvings, strict=True):
        weight, bias = _principal(signals[-1], pairs)
        _set(layer, weight, bias)
        signals.append(functional.conv2d(signals[-1], weight, bias, stride=2, padding=1))

    smallest = signals.pop()
    mean = smallest.mean(0)
    around = smallest - mean
    directions, squares = _few_directions(around.flatten(1), model.latent_dim)
    scales = CODE * squares.clamp(min=FLOOR * squares[0]).rsqrt()
    weight = (directions * scales[:, None]).view(-1, *mean.shape)
    _set(to_code, weight, -(weight * mean).sum((1, 2, 3)))
    codes = functional.conv2d(around, weight)

    weight = _least_squares([codes.flatten(1)], [around.flatten(1)]).view(weight.shape)
    _set(from_code, weight, mean)
    signal = functional.conv_transpose2d(codes, weight) + mean
    for layer in doublings:
        target = signals.pop() if len(signals) > 1 else pictures.clamp(-LIMIT, LIMIT).atanh()
        weight, bias = _back(signal, target)
        _set(layer, weight, bias)
        signal = functional.conv_transpose2d(signal, weight, bias, stride=2, padding=1)
    _balance(model, pictures[:FEW])


def _balance(model: AutoEncoder, pictures: Tensor) -> None:
    """Divides each hidden signal whose mean square is above 1 by its root; the next layer makes up for it.

    The net stays the same function. But the first principal components are 10 times as large as most, and a step of
    Adam's, which is as long for each weight, would move the net along them 10 times as far: of two trainings on real
    cats without this, one diverged.
    """
    _, times = ACTIVATIONS[model.activation]
    layers = [*convolutions(model)]
    following = dict(pairwise(layers))
    values = pictures
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        values = layer(values)
        if layer not in following or isinstance(layer, ToLatent):
            continue
        size = values.square().mean((0, 2, 3)).sqrt().clamp(min=1)
        values = values / size[:, None, None]
        layer.weight /= _along(layer, "out", size)
        layer.bias /= size.view(-1, *[1] * (layer.bias.ndim - 1))
        after = following[layer]
        after.weight *= _along(after, "in", size.repeat(times))


def _along(layer: nn.Module, end: Literal["in", "out"], values: Tensor) -> Tensor:
    """Values for each channel that goes in or comes out, in the shape that meets a layer's weights."""
    first = (end == "in") == isinstance(layer, nn.ConvTranspose2d)
    return values.view(-1, 1, 1, 1) if first else values.view(1, -1, 1, 1)


def _pairs(model: AutoEncoder) -> list[int]:
    """Pairs of channels after each halving."""
    return [count // 2 for count in channels(model.image_size, model.width, model.activation)[1:]]


def _principal(signal: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a halving layer: the leading principal directions of what its kernel sees."""
    total = second = torch.zeros((), dtype=torch.float64)
    places = signal.shape[2] * signal.shape[3] // 4  # of a picture, as the kernel's stride is 2
    signal = signal[: _enough(places)]
    for part in torch.split(signal, AT_A_TIME):
        rows = patches(part)
        total, second = total + rows.sum(0).double(), second + (rows.T @ rows).double()
    mean = total / (places * len(signal))
    directions, squares = principal(second / (places * len(signal)) - mean.outer(mean), count)
    # One scale for all: were each direction's mean square 1, the next layer would keep noise as dearly as what is seen.
    directions = directions / squares.mean().sqrt()
    weight = directions.view(count, KERNEL, KERNEL, -1).permute(0, 3, 1, 2)
    return weight.float(), (-directions @ mean).float()


def _enough(places: int) -> int:
    """How many pictures to learn from where each is seen in so many places."""
    return max(FEW, SEEN // places)


def _few_directions(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions (count, features) of the largest mean square of rows (n, features), and that of each (count,).

    The rows are fewer than features: it goes by way of their products with each other.

    At 4x4 a picture has 4,096 features, and the eigenvectors of a matrix of that size take 20 s.
    """
    weights, squares = principal((rows.double() @ rows.T.double()) / len(rows), count)
    return signed(functional.normalize(weights @ rows.double())).float(), squares.float()


def _back(signal: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a doubling layer: by least squares, what leads from a signal to the target of twice its size.

    A pixel of the target is met by 2x2 places of the kernel, by others in even and in odd rows and columns.
    """
    side, channels = signal.shape[-1], signal.shape[1]
    signal, target = signal[: _enough(side**2)], target[: _enough(side**2)]
    bias = target.mean((0, 2, 3))
    weight = torch.zeros(channels, target.shape[1], KERNEL, KERNEL)
    around = functional.pad(signal, (1, 1, 1, 1))
    for row, column in product((0, 1), (0, 1)):
        window = around[:, :, row : row + side + 1, column : column + side + 1]
        pixels = target[:, :, row::2, column::2] - bias[:, None, None]
        found = _least_squares(
            (patches(part, kernel=2, stride=1, padding=0) for part in torch.split(window, AT_A_TIME)),
            (part.permute(0, 2, 3, 1).flatten(0, 2) for part in torch.split(pixels, AT_A_TIME)),
        )
        # The window's first row is met by the kernel's last but `row`, its second by the one two before that.
        kernel = found.view(2, 2, channels, -1).permute(2, 3, 0, 1).flip(2, 3)
        weight[:, :, 1 - row :: 2, 1 - column :: 2] = kernel
    return weight, bias


def _least_squares(features: Iterable[Tensor], targets: Iterable[Tensor]) -> Tensor:
    """The matrix (f, t) that leads from rows of features (n, f) to targets (n, t), in parts, with the least squares."""
    gram = cross = torch.zeros((), dtype=torch.float64)
    for part, wanted in zip(features, targets, strict=True):
        gram, cross = gram + (part.T @ part).double(), cross + (part.T @ wanted).double()
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(gram + ridge, cross)
    return solution.float()


def _set(layer: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    """Gives a layer weights between signals; where it has two channels for one, that is the signal and its negative."""
    assert layer.bias is not None
    for old, new in ((layer.weight, weight), (layer.bias, bias)):
        for dim in range(new.ndim):
            if old.shape[dim] == 2 * new.shape[dim]:
                new = torch.cat([new, -new], dim)
        old.copy_(new)
