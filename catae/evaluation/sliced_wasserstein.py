"""The sliced Wasserstein distance of the patches of two sets of images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from catae.data.decode import Pixels
from catae.data.transforms import normalize

COARSEST = 16  # pixels per side
PATCHES, PATCH = 128, 7  # per image and level; pixels per side
PROJECTIONS = 4 * 128
DIRECTIONS = 64  # projected at once: 512 images take 17 MB per set
BATCH = 128  # images
FLAT = 1e-3  # of pixels in [-1, 1], an eighth of a step of uint8: a smaller deviation is rounding
UNIT = 1e3


@dataclass(frozen=True)
class SlicedWasserstein:
    """Sliced Wasserstein distances, times 1,000; 0 between a set and itself.

    Attributes:
        mean: the mean of the levels.
        levels: by name, from the finest, like '64x64', which holds edges and noise, to '16x16', which holds large
            structures and colours.
    """

    mean: float
    levels: dict[str, float]


@torch.inference_mode()
def sliced_wasserstein(a: Pixels, b: Pixels, generator: torch.Generator) -> SlicedWasserstein:
    """Return the sliced Wasserstein distance between two sets of images (Karras et al. 2018, section 5 and appendix).

    As in the paper (https://arxiv.org/abs/1710.10196) and its code, each image becomes a Laplacian pyramid down to
    16x16. Each level gives 128 patches of 7x7x3 at random positions. The distributions of patches are compared along
    512 random directions: for sets of equal size, the distance is the mean difference of the sorted projections.

    Two differences make the numbers not comparable with published ones:

    - Colours are normalized by the mean and deviation of both sets together. The paper normalizes each set by its own,
      which hides a shift of the colours and the loss of contrast by blur, the main fault of an autoencoder.
    - Both sets are cut at the same positions, which differ between images. A set is then at distance 0 from itself, and
      differences of distances have less noise.

    The distance between two random parts of one set is not 0: it is the floor to compare with, and falls with the
    number of images. Distances are comparable at equal numbers only.

    Args:
        a: uint8 (count, size, size, 3); the size is a power of two and at least 16.
        b: the same shape.
        generator: draws the positions of the patches and the directions.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"cannot compare sets of images of different shapes: {a.shape} and {b.shape}")
    side, levels = a.shape[1], {}
    for level in range((side // COARSEST).bit_length()):
        size = side >> level
        corners = torch.randint(size - PATCH + 1, (2, len(a), PATCHES), generator=generator)
        levels[f"{size}x{size}"] = UNIT * _distance(_patches(a, level, corners), _patches(b, level, corners), generator)
    return SlicedWasserstein(sum(levels.values()) / len(levels), levels)


def _distance(a: Tensor, b: Tensor, generator: torch.Generator) -> float:
    """Return the mean distance of two sets of patches along random directions; overwrite both, (patches, 3, 49)."""
    mean = (_colour_means(a) + _colour_means(b)) / 2
    variance = (_colour_means(a.sub_(mean).square()) + _colour_means(b.sub_(mean).square())) / 2
    deviation = variance.sqrt().clamp(min=FLAT)
    a, b = a.div_(deviation).flatten(1), b.div_(deviation).flatten(1)
    directions = F.normalize(torch.randn(PROJECTIONS, a.shape[1], generator=generator))
    projections = torch.empty(2, DIRECTIONS, len(a))  # allocated once: new memory takes as long as filling it
    total = 0.0
    for batch in torch.split(directions, DIRECTIONS):
        for projected, patches in zip(projections, (a, b), strict=True):
            torch.mm(batch, patches.T, out=projected)
        projections.numpy().sort()  # several times as fast as torch.sort, which also returns the indices
        total += projections[0].sub_(projections[1]).abs_().mean(1).sum().item()
    return total / PROJECTIONS


def _colour_means(patches: Tensor) -> Tensor:
    """Return the means of the three colours: (1, 3, 1)."""
    return patches.mean((0, 2), keepdim=True)


def _patches(pixels: Pixels, level: int, corners: Tensor) -> Tensor:
    """Return patches of one level of the Laplacian pyramids of images: (count * patches per image, 3, 49).

    Args:
        pixels: uint8 (count, size, size, 3).
        level: the level, 0 for the finest.
        corners: (2, count, patches per image), the first row and column of each patch.
    """
    patches = []
    parts = (torch.split(whole, BATCH) for whole in (torch.from_numpy(pixels), *corners))
    for batch, rows, columns in zip(*parts, strict=True):
        images = _level(normalize(batch.numpy()), level)
        windows = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        patches.append(windows[torch.arange(len(batch))[:, None], :, rows, columns].flatten(0, 1).flatten(2))
    return torch.cat(patches)


def _level(images: Tensor, level: int) -> Tensor:
    """Return one level of the Laplacian pyramids of images: (batch, 3, size / 2**level, size / 2**level).

    A level holds what the next coarser one lacks; the coarsest is the downsampled image itself.
    """
    for _ in range(level):
        images = _downsample(images)
    return images if images.shape[-1] == COARSEST else images - _upsample(_downsample(images))


def _downsample(images: Tensor) -> Tensor:
    """Return images smoothed and of half the size."""
    return _smooth(images)[..., ::2, ::2]


def _upsample(images: Tensor) -> Tensor:
    """Return images of twice the size, with smoothly interpolated pixels."""
    batch, channels, height, width = images.shape
    enlarged = images.new_zeros(batch, channels, 2 * height, 2 * width)
    enlarged[..., ::2, ::2] = images
    return 4 * _smooth(enlarged)


def _smooth(images: Tensor) -> Tensor:
    """Apply the 5x5 binomial filter of Burt and Adelson to images, with reflected borders.

    Images keep their channels-last layout, in which this takes a seventh of the time.
    """
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    filters = torch.outer(row, row).expand(images.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), "reflect"), filters, groups=images.shape[1])
