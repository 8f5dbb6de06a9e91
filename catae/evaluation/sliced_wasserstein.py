"""How far two sets of pictures are from each other, as sets: the sliced Wasserstein distance of their patches."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from catae.data import transforms
from catae.data.decode import Pixels

COARSEST = 16  # pixels a side
PATCHES, PATCH = 128, 7  # of a picture and level; pixels a side
PROJECTIONS = 4 * 128
DIRECTIONS = 64  # at a time: of 512 pictures they take 17 MB for each set
PICTURES = 128  # at a time
FLAT = 1e-3  # of pixels in [-1, 1], an eighth of a step of uint8: what varies less is rounding
UNIT = 1e3


@dataclass(frozen=True)
class Distance:
    """Sliced Wasserstein distances, times 1,000: 0 between a set and itself.

    Attributes:
        mean: of the levels.
        levels: by the level's name, like '64x64': from the finest, which has the edges and the noise, to '16x16',
            which has all that is large, and the colours.
    """

    mean: float
    levels: dict[str, float]


@torch.inference_mode()
def distance(a: Pixels, b: Pixels, generator: torch.Generator) -> Distance:
    """The sliced Wasserstein distance between two sets of pictures (Karras et al. 2018, section 5 and appendix).

    As in the paper (https://arxiv.org/abs/1710.10196) and its code, each picture becomes a Laplacian pyramid down to
    16x16; on each level it gives 128 patches of 7x7x3 at random places; and the patches' distributions are compared
    along 512 random directions, where the distance of two sets of equal size is the mean difference of their sorted
    projections. In two things it is another measure, so that its numbers aren't comparable with published ones:

    - Colours are normalised by mean and deviation over both sets together. The paper normalises each set by its own,
      and so sees neither a shift of the colours nor what blur, an autoencoder's main fault, takes from the contrast.
    - Patches are cut at the same places in both sets, and at other ones for each picture. A set is then at distance 0
      from itself, and a difference of two distances has less noise.

    Between two random parts of one set it is not 0 either: that is the floor to compare with. It falls with the number
    of pictures; distances are comparable at equal numbers only.

    Args:
        a: uint8 (pictures, size, size, 3), a power of two and at least 16 in size.
        b: the same shape.
        generator: for the patches' places and the directions.
    """
    if a.shape != b.shape:
        raise ValueError(f"sets of one shape can be compared, and not {a.shape} and {b.shape}")
    side, levels = a.shape[1], {}
    for level in range((side // COARSEST).bit_length()):
        shown = side >> level
        places = torch.randint(shown - PATCH + 1, (2, len(a), PATCHES), generator=generator)
        levels[f"{shown}x{shown}"] = UNIT * _between(_patches(a, level, places), _patches(b, level, places), generator)
    return Distance(sum(levels.values()) / len(levels), levels)


def _between(a: Tensor, b: Tensor, generator: torch.Generator) -> float:
    """The mean distance of two sets of patches along random directions; both (patches, 3, 49), and overwritten."""
    mean = (_by_colour(a) + _by_colour(b)) / 2
    variance = (_by_colour(a.sub_(mean).square()) + _by_colour(b.sub_(mean).square())) / 2
    deviation = variance.sqrt().clamp(min=FLAT)
    a, b = a.div_(deviation).flatten(1), b.div_(deviation).flatten(1)
    directions = F.normalize(torch.randn(PROJECTIONS, a.shape[1], generator=generator))
    along = torch.empty(2, DIRECTIONS, len(a))  # once: new memory takes as long as what is written into it
    apart = 0.0
    for few in torch.split(directions, DIRECTIONS):
        for projected, patches in zip(along, (a, b), strict=True):
            torch.mm(few, patches.T, out=projected)
        along.numpy().sort()  # several times as fast as PyTorch's, which also gives the places that they had
        apart += along[0].sub_(along[1]).abs_().mean(1).sum().item()
    return apart / PROJECTIONS


def _by_colour(patches: Tensor) -> Tensor:
    """Means of the three colours: (1, 3, 1)."""
    return patches.mean((0, 2), keepdim=True)


def _patches(pixels: Pixels, level: int, places: Tensor) -> Tensor:
    """Patches of one level of the pictures' Laplacian pyramids: (pictures * patches of each, 3, 49).

    Args:
        pixels: uint8 (pictures, size, size, 3).
        level: how many times the pictures are made half as large first.
        places: (2, pictures, patches of each), of the patches' first rows and columns.
    """
    cut = []
    parts = (torch.split(whole, PICTURES) for whole in (torch.from_numpy(pixels), *places))
    for few, rows, columns in zip(*parts, strict=True):
        shown = _level(transforms.normalize(few.numpy()), level)
        windows = shown.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        cut.append(windows[torch.arange(len(few))[:, None], :, rows, columns].flatten(0, 1).flatten(2))
    return torch.cat(cut)


def _level(pictures: Tensor, level: int) -> Tensor:
    """One level of pictures' Laplacian pyramids: (batch, 3, size / 2**level, the same).

    What the next coarser level doesn't have; on the coarsest, the pictures themselves, made smaller.
    """
    for _ in range(level):
        pictures = _half(pictures)
    return pictures if pictures.shape[-1] == COARSEST else pictures - _double(_half(pictures))


def _half(pictures: Tensor) -> Tensor:
    """Pictures smoothed and made half as large."""
    return _smooth(pictures)[..., ::2, ::2]


def _double(pictures: Tensor) -> Tensor:
    """Pictures made twice as large, with smooth values in the new places."""
    batch, channels, height, width = pictures.shape
    doubled = pictures.new_zeros(batch, channels, 2 * height, 2 * width)
    doubled[..., ::2, ::2] = pictures
    return 4 * _smooth(doubled)


def _smooth(pictures: Tensor) -> Tensor:
    """Pictures under the 5x5 binomial filter of Burt and Adelson, mirrored at their borders.

    They stay in the channels-last layout that they come in, in which it takes a seventh of the time.
    """
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    filters = torch.outer(row, row).expand(pictures.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(pictures, (2, 2, 2, 2), "reflect"), filters, groups=pictures.shape[1])
