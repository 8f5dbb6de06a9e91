"""From an ImageStore to float batches in [-1, 1], through PyTorch's DataLoader."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.system import rng
from catae.training.distributed import SINGLE, World

# Larger ones are no faster, though nothing is kept of a batch when no gradient is asked for: 128 takes 0.96 times as
# long, 256 1.05 times and 512 1.4 times, and 20, 80 and 130 MB more.
EVALUATION_BATCH = 64

Loader = DataLoader[Tensor]


class Pictures(Dataset[Tensor]):
    """Some pictures of a set, as the model takes them: `pictures[i]` is float32 (3, size, size) in [-1, 1].

    Args:
        images: the set.
        positions: of the pictures in it.
        varied: how each of them is, if any is.
    """

    def __init__(self, images: ImageStore, positions: Sequence[int], varied: "Augmentation | None" = None) -> None:
        self.images = images
        self.positions = np.asarray(positions, np.int64)
        self.varied = varied

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """A whole batch at once, which PyTorch's loader asks for: float32 (batch, 3, size, size) in [-1, 1]."""
        pixels = self.images.take(self.positions[indices])
        return normalize(self.varied.of(pixels, indices) if self.varied else pixels)


@dataclass(frozen=True)
class Augmentation:
    """How each of some pictures is changed before it is shown in training, so that more can be learned from them.

    Attributes:
        mirrored: whether it is turned left to right, (pictures,).
        moved: by how many pixels up and left, (pictures, 2); its edge fills what is left free.
        most: the largest of these numbers.
    """

    mirrored: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.int64]
    most: int

    @classmethod
    def drawn(cls, count: int, hflip: float, shift: int, generator: torch.Generator) -> "Augmentation":
        """Those of `count` pictures: the share `hflip` is turned, and each is moved by up to `shift` pixels."""
        mirrored = torch.rand(count, generator=generator) < hflip
        moved = torch.randint(-shift, shift + 1, (count, 2), generator=generator)
        return cls(mirrored.numpy(), moved.numpy(), shift)

    def of(self, pixels: Pixels, indices: Sequence[int]) -> Pixels:
        """The pictures uint8 (pictures, height, width, 3) as they are shown; `indices` are their numbers here."""
        turned, (height, width) = self.mirrored[indices], pixels.shape[1:3]
        pixels[turned] = pixels[turned, :, ::-1]
        around = np.pad(pixels, ((0, 0), (self.most, self.most), (self.most, self.most), (0, 0)), mode="edge")
        for picture, wide, (up, left) in zip(pixels, around, self.moved[indices] + self.most, strict=True):
            picture[:] = wide[up : up + height, left : left + width]
        return pixels


def normalize(pixels: Pixels) -> Tensor:
    """What `ToTensor` and `Normalize(mean=0.5, std=0.5)` of torchvision give, bit for bit, for a whole batch.

    Args:
        pixels: uint8 (batch, height, width, 3).

    Returns:
        float32 (batch, 3, height, width) in [-1, 1], in the channels-last layout in which the pixels stand.
    """
    # PyTorch takes no read-only memory, which Pillow's pictures are.
    batch = torch.from_numpy(np.require(pixels, requirements="W")).permute(0, 3, 1, 2)
    return batch.to(torch.float32).div_(255).sub_(0.5).div_(0.5)


def to_uint8(batch: Tensor) -> Pixels:
    """What a person sees of a batch: `((x + 1) / 2).clamp(0, 1)`, with no stretching.

    Args:
        batch: float (batch, 3, height, width), nominally in [-1, 1].

    Returns:
        uint8 (batch, height, width, 3).
    """
    shown = ((batch.float() + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).cpu().numpy())


def train_loader(
    images: ImageStore,
    positions: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    done: int = 0,
    hflip: float = 0,
    shift: int = 0,
    ranks: World = SINGLE,
) -> Loader:
    """The train pictures in the order of epoch number `epoch`, which only the seed and that number decide.

    The first `done` batches, which have been trained on before, are left out. The share `hflip` of the pictures,
    others in each epoch, is turned left to right, and each is moved by up to `shift` pixels. Of each batch it gives
    this process's share.
    """
    generator = rng.generator(seed, f"variations in epoch {epoch}")
    pictures = Pictures(images, positions, Augmentation.drawn(len(positions), hflip, shift, generator))
    order = torch.randperm(len(pictures), generator=rng.generator(seed, f"order of epoch {epoch}"))
    shares = [[*ranks.share(batch.tolist())] for batch in torch.split(order, batch_size)[done:]]
    return DataLoader(pictures, batch_sampler=shares, collate_fn=_as_it_is)


def ordered_loader(images: ImageStore, positions: Sequence[int]) -> Loader:
    """The pictures at these positions, in that order, in batches that suit evaluation."""
    return DataLoader(Pictures(images, positions), EVALUATION_BATCH, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    """`__getitems__` gives whole batches: there is nothing to collate."""
    return batch
