import functools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Normalize, ToTensor

from catae.data import loader
from catae.data.image_store import ImageStore

TORCHVISION = Compose([ToTensor(), Normalize(mean=[0.5] * 3, std=[0.5] * 3)])


def test_batches_equal_torchvision_transforms(synthetic_images: ImageStore) -> None:
    positions = [3, 1, 100]
    (batch,) = loader.ordered_loader(synthetic_images, positions)
    expected = torch.stack([TORCHVISION(np.array(synthetic_images.take([position])[0])) for position in positions])
    assert torch.equal(batch, expected)
    assert torch.equal(loader.ImageDataset(synthetic_images, positions)[1], expected[1])


def test_loaders_are_pytorch_dataloaders(synthetic_images: ImageStore) -> None:
    assert isinstance(loader.train_loader(synthetic_images, [0, 1], 64, 0, 1), DataLoader)
    assert isinstance(loader.ordered_loader(synthetic_images, [0, 1]), DataLoader)


def test_each_epoch_has_every_image_once_in_its_own_order(synthetic_images: ImageStore) -> None:
    def loaded(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat(list(loader.train_loader(synthetic_images, range(120), 64, seed, epoch)))

    first = loaded(seed=0, epoch=1)
    torch.rand(7)  # the global generator has no effect
    assert torch.equal(first, loaded(seed=0, epoch=1))
    assert not torch.equal(first, loaded(seed=0, epoch=2))
    assert not torch.equal(first, loaded(seed=1, epoch=1))
    ordered = torch.cat(list(loader.ordered_loader(synthetic_images, range(120))))
    assert torch.equal(first.flatten(1).sum(1).sort().values, ordered.flatten(1).sum(1).sort().values)


def test_last_batch_holds_the_remainder(synthetic_images: ImageStore) -> None:
    assert [len(batch) for batch in loader.train_loader(synthetic_images, range(120), 50, 0, 1)] == [50, 50, 20]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("affine", [0, 0.5])
def test_ranks_share_every_batch(synthetic_images: ImageStore, world_size: int, affine: float) -> None:
    load = functools.partial(loader.train_loader, synthetic_images, range(97), 32, 5, 2, affine=affine)
    whole = list(load())
    for rank in range(world_size):
        shares = list(load(rank=rank, world_size=world_size))
        assert len(shares) == len(whole)
        assert all(torch.equal(share, batch[rank::world_size]) for share, batch in zip(shares, whole, strict=True))


def test_hflip_flips_other_images_in_each_epoch(synthetic_images: ImageStore) -> None:
    def loaded(epoch: int, hflip: float, done: int = 0) -> torch.Tensor:
        return torch.cat(list(loader.train_loader(synthetic_images, range(120), 10, 0, epoch, done, hflip)))

    plain, half, every = (loaded(1, hflip) for hflip in (0, 0.5, 1))
    flipped = (half == plain.flip(3)).all((1, 2, 3))
    assert torch.equal(every, plain.flip(3))
    assert torch.equal(half[~flipped], plain[~flipped])
    assert 40 <= flipped.sum() <= 80
    assert torch.equal(loaded(1, 0.5, done=7), half[70:])  # resuming within an epoch changes nothing
    assert not torch.equal((loaded(2, 0.5) == loaded(2, 0).flip(3)).all((1, 2, 3)), flipped)


def test_shift_moves_images_by_at_most_one_pixel(synthetic_images: ImageStore) -> None:
    def loaded(shift: int) -> torch.Tensor:
        return torch.cat(list(loader.train_loader(synthetic_images, range(120), 10, 0, 1, shift=shift)))

    plain, shifted = loaded(0), loaded(1)
    assert plain.shape == shifted.shape
    shifts = set()
    for image, inside in zip(plain, shifted[:, :, 1:-1, 1:-1], strict=True):
        (shift,) = [
            (up, left)
            for up in range(3)
            for left in range(3)
            if torch.equal(image[:, up : up + 30, left : left + 30], inside)
        ]
        shifts.add(shift)
    assert len(shifts) == 9
