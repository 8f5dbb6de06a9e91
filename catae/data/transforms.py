"""Convert images between pixels and tensors, and augment them for training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from catae.data.decode import Pixels

# Of the affine augmentation. With these, tuned ends 1.0 % better on the real cats (docs/notebook.md).
MAX_ROTATION = math.radians(9)
MAX_ZOOM = 0.09  # fraction of the size


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
    """The random flip, shift, rotation and zoom of each image in one epoch.

    Attributes:
        flipped: whether the image is flipped horizontally, (images,).
        shifts: pixels by which it moves up and left, (images, 2); edge pixels fill the gap.
        max_shift: largest possible absolute value in `shifts`.
        affine: whether the image is rotated and zoomed, (images,).
        matrices: its rotation and zoom about the centre, (images, 2, 3); reflected pixels fill the corners.
    """

    flipped: npt.NDArray[np.bool_]
    shifts: npt.NDArray[np.int64]
    max_shift: int
    affine: Tensor
    matrices: Tensor

    @classmethod
    def sample(
        cls, count: int, hflip: float, max_shift: int, affine: float, generator: torch.Generator
    ) -> "Augmentation":
        """Draw the augmentation of each of `count` images.

        Args:
            count: number of images.
            hflip: probability of a flip.
            max_shift: largest shift in pixels.
            affine: probability of a rotation by up to `MAX_ROTATION` and a zoom by up to `MAX_ZOOM`. Resampling blurs
                an image a little, so that some should stay as they are.
            generator: source of randomness.
        """
        flipped = torch.rand(count, generator=generator) < hflip
        shifts = torch.randint(-max_shift, max_shift + 1, (count, 2), generator=generator)
        angles, zooms = torch.rand(2, count, generator=generator) * 2 - 1
        chosen = torch.rand(count, generator=generator) < affine
        scales = 1 + MAX_ZOOM * zooms
        cosines, sines = scales * torch.cos(MAX_ROTATION * angles), scales * torch.sin(MAX_ROTATION * angles)
        matrices = torch.zeros(count, 2, 3)
        matrices[:, 0, 0] = matrices[:, 1, 1] = cosines
        matrices[:, 1, 0], matrices[:, 0, 1] = sines, -sines
        return cls(flipped.numpy(), shifts.numpy(), max_shift, chosen, matrices)

    def apply(self, pixels: Pixels, indices: Sequence[int]) -> Tensor:
        """Return the augmented images, normalized, float32 (batch, 3, height, width) in [-1, 1].

        Args:
            pixels: uint8 (batch, height, width, 3). They are overwritten.
            indices: the index of each image in this augmentation, (batch,).
        """
        batch = normalize(self._flip_and_shift(pixels, indices))
        chosen = self.affine[indices]
        if chosen.any():
            batch[chosen] = _transform(batch[chosen], self.matrices[indices][chosen])
        return batch

    def _flip_and_shift(self, pixels: Pixels, indices: Sequence[int]) -> Pixels:
        flipped, (height, width) = self.flipped[indices], pixels.shape[1:3]
        pixels[flipped] = pixels[flipped, :, ::-1]
        margin = (self.max_shift, self.max_shift)
        padded = np.pad(pixels, ((0, 0), margin, margin, (0, 0)), mode="edge")
        for image, source, (up, left) in zip(pixels, padded, self.shifts[indices] + self.max_shift, strict=True):
            image[:] = source[up : up + height, left : left + width]
        return pixels


def _transform(batch: Tensor, matrices: Tensor) -> Tensor:
    """Resample images (batch, 3, height, width) at the positions that affine matrices (batch, 2, 3) map pixels to."""
    grid = functional.affine_grid(matrices, list(batch.shape), align_corners=False)
    resampled = functional.grid_sample(batch, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return resampled.clamp_(-1, 1)  # bicubic weights overshoot at edges
