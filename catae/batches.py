"""From an ImageSet to float batches in [-1, 1], through PyTorch's DataLoader."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catae import randomness
from catae.decoding import Pixels
from catae.images import ImageSet

# Larger ones are no faster, though nothing is kept of a batch when no gradient is asked for: 128 takes 0.96 times as
# long, 256 1.05 times and 512 1.4 times, and 20, 80 and 130 MB more.
EVALUATION_BATCH = 64

Loader = DataLoader[Tensor]


class Pictures(Dataset[Tensor]):
    """Some pictures of a set, as the model takes them: `pictures[i]` is float32 (3, size, size) in [-1, 1].

    Args:
        images: the set.
        positions: of the pictures in it.
        mirrored: for each of them whether it is turned left to right; none is, if not told.
    """

    def __init__(self, images: ImageSet, positions: Sequence[int], mirrored: Tensor | None = None) -> None:
        self.images = images
        self.positions = np.asarray(positions, np.int64)
        self.mirrored = np.zeros(len(positions), bool) if mirrored is None else mirrored.numpy()

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """A whole batch at once, which PyTorch's loader asks for: float32 (batch, 3, size, size) in [-1, 1]."""
        pixels, mirrored = self.images.take(self.positions[indices]), self.mirrored[indices]
        pixels[mirrored] = pixels[mirrored, :, ::-1]
        return normalise(pixels)


def normalise(pixels: Pixels) -> Tensor:
    """What `ToTensor` and `Normalize(mean=0.5, std=0.5)` of torchvision give, bit for bit, for a whole batch.

    Args:
        pixels: uint8 (batch, height, width, 3).

    Returns:
        float32 (batch, 3, height, width) in [-1, 1], in the channels-last layout in which the pixels stand.
    """
    # PyTorch takes no read-only memory, which Pillow's pictures are.
    batch = torch.from_numpy(np.require(pixels, requirements="W")).permute(0, 3, 1, 2)
    return batch.to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def viewable(batch: Tensor) -> Pixels:
    """What a person sees of a batch: `((x + 1) / 2).clamp(0, 1)`, with no stretching.

    Args:
        batch: float (batch, 3, height, width), nominally in [-1, 1].

    Returns:
        uint8 (batch, height, width, 3).
    """
    shown = ((batch.float() + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).cpu().numpy())


def train_loader(
    images: ImageSet, positions: Sequence[int], batch_size: int, seed: int, epoch: int, done: int = 0, mirror: float = 0
) -> Loader:
    """The train pictures in the order of epoch number `epoch`, which only the seed and that number decide.

    The first `done` batches, which have been trained on before, are left out. The part `mirror` of the pictures, others
    in each epoch, is turned left to right.
    """
    generator = randomness.generator(seed, f"mirroring in epoch {epoch}")
    pictures = Pictures(images, positions, torch.rand(len(positions), generator=generator) < mirror)
    order = torch.randperm(len(pictures), generator=randomness.generator(seed, f"order of epoch {epoch}"))
    return DataLoader(pictures, batch_size, sampler=order[done * batch_size :].tolist(), collate_fn=_as_it_is)


def ordered_loader(images: ImageSet, positions: Sequence[int]) -> Loader:
    """The pictures at these positions, in that order, in batches that suit evaluation."""
    return DataLoader(Pictures(images, positions), EVALUATION_BATCH, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    """`__getitems__` gives whole batches: there is nothing to collate."""
    return batch
