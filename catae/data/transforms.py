"""Convert images between pixels and tensors, and augment them for training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catae.data.decode import Pixels


def normalize(pixels: Pixels) -> Tensor:
    """Scale pixels to [-1, 1], bit-identical to torchvision's `ToTensor` and `Normalize(mean=0.5, std=0.5)`.

    Args:
        pixels: uint8 (batch, height, width, 3).

    Returns:
        float32 (batch, 3, height, width) in [-1, 1], in the channels-last memory layout of `pixels`.
    """
    # torch.from_numpy warns about read-only arrays, such as Pillow's images.
    batch = torch.from_numpy(np.require(pixels, requirements="W")).permute(0, 3, 1, 2)
    return batch.to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def to_uint8(batch: Tensor) -> Pixels:
    """Convert a batch to pixels: `((x + 1) / 2).clamp(0, 1)`, without contrast stretching.

    Args:
        batch: float (batch, 3, height, width), nominally in [-1, 1].

    Returns:
        uint8 (batch, height, width, 3).
    """
    pixels = ((batch.float() + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


@dataclass(frozen=True)
class Augmentation:
    """The random flip and shift of each image in one epoch.

    Attributes:
        flipped: whether the image is flipped horizontally, (images,).
        shifts: pixels by which it moves up and left, (images, 2); edge pixels fill the gap.
        max_shift: largest possible absolute value in `shifts`.
    """

    flipped: npt.NDArray[np.bool_]
    shifts: npt.NDArray[np.int64]
    max_shift: int

    @classmethod
    def sample(cls, count: int, hflip: float, max_shift: int, generator: torch.Generator) -> "Augmentation":
        """Draw a flip with probability `hflip` and a shift of up to `max_shift` pixels for each of `count` images."""
        flipped = torch.rand(count, generator=generator) < hflip
        shifts = torch.randint(-max_shift, max_shift + 1, (count, 2), generator=generator)
        return cls(flipped.numpy(), shifts.numpy(), max_shift)

    def apply(self, pixels: Pixels, indices: Sequence[int]) -> Pixels:
        """Augment `pixels` in place and return them.

        Args:
            pixels: uint8 (batch, height, width, 3).
            indices: the index of each image in this augmentation, (batch,).
        """
        flipped, (height, width) = self.flipped[indices], pixels.shape[1:3]
        pixels[flipped] = pixels[flipped, :, ::-1]
        margin = (self.max_shift, self.max_shift)
        padded = np.pad(pixels, ((0, 0), margin, margin, (0, 0)), mode="edge")
        for image, source, (up, left) in zip(pixels, padded, self.shifts[indices] + self.max_shift, strict=True):
            image[:] = source[up : up + height, left : left + width]
        return pixels
