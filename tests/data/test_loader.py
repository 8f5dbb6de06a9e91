import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Normalize, ToTensor

from catae.data import loader
from catae.data.image_store import ImageStore

TRANSFORM = Compose([ToTensor(), Normalize(mean=[0.5] * 3, std=[0.5] * 3)])


def test_pixels_become_what_torchvisions_transforms_give_bit_for_bit_for_all_256_values() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert torch.equal(loader.normalize(pixels)[0], TRANSFORM(pixels[0]))
    assert loader.normalize(pixels).aminmax() == (-1.0, 1.0)


def test_the_loaders_batches_are_what_torchvisions_transforms_give(drawn_set: ImageStore) -> None:
    positions = [3, 1, 100]
    (batch,) = loader.ordered_loader(drawn_set, positions)
    expected = torch.stack([TRANSFORM(np.array(drawn_set.take([position])[0])) for position in positions])
    assert torch.equal(batch, expected)
    assert torch.equal(loader.Pictures(drawn_set, positions)[1], expected[1])


def test_loading_goes_through_pytorchs_dataloader(drawn_set: ImageStore) -> None:
    assert isinstance(loader.train_loader(drawn_set, [0, 1], 64, 0, 1), DataLoader)
    assert isinstance(loader.ordered_loader(drawn_set, [0, 1]), DataLoader)


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own(drawn_set: ImageStore) -> None:
    def shown(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat(list(loader.train_loader(drawn_set, range(120), 64, seed, epoch)))

    one = shown(seed=0, epoch=1)
    torch.rand(7)  # the global generator has no say
    assert torch.equal(one, shown(seed=0, epoch=1))
    assert not torch.equal(one, shown(seed=0, epoch=2))
    assert not torch.equal(one, shown(seed=1, epoch=1))
    all_of_them = torch.cat(list(loader.ordered_loader(drawn_set, range(120))))
    assert torch.equal(one.flatten(1).sum(1).sort().values, all_of_them.flatten(1).sum(1).sort().values)


def test_batches_have_the_asked_size_and_the_last_one_the_rest(drawn_set: ImageStore) -> None:
    assert [len(batch) for batch in loader.train_loader(drawn_set, range(120), 50, 0, 1)] == [50, 50, 20]


def test_a_picture_that_is_shown_is_not_stretched() -> None:
    batch = torch.tensor([-3.0, -1.0, 0.0, 0.2, 1.0, 9.0]).expand(1, 3, 1, 6)
    assert loader.to_uint8(batch)[0, 0, :, 0].tolist() == [0, 0, 128, 153, 255, 255]


def test_what_is_shown_of_a_picture_is_the_picture(drawn_set: ImageStore) -> None:
    assert np.array_equal(loader.to_uint8(loader.normalize(drawn_set.take(range(10)))), drawn_set.take(range(10)))


def test_a_share_of_the_train_pictures_is_mirrored_others_in_each_epoch(drawn_set: ImageStore) -> None:
    def loaded(epoch: int, hflip: float, done: int = 0) -> torch.Tensor:
        return torch.cat(list(loader.train_loader(drawn_set, range(120), 10, 0, epoch, done, hflip)))

    plain, some, every = (loaded(1, hflip) for hflip in (0, 0.5, 1))
    turned = (some == plain.flip(3)).all((1, 2, 3))
    assert torch.equal(every, plain.flip(3))
    assert torch.equal(some[~turned], plain[~turned])
    assert 40 <= turned.sum() <= 80
    assert torch.equal(loaded(1, 0.5, done=7), some[70:])  # as if it had not been interrupted
    assert not torch.equal((loaded(2, 0.5) == loaded(2, 0).flip(3)).all((1, 2, 3)), turned)


def test_train_pictures_are_moved_by_a_pixel_or_not_at_all(drawn_set: ImageStore) -> None:
    def loaded(shift: int) -> torch.Tensor:
        return torch.cat(list(loader.train_loader(drawn_set, range(120), 10, 0, 1, shift=shift)))

    plain, moved = loaded(0), loaded(1)
    assert plain.shape == moved.shape
    inside, places = moved[:, :, 1:-1, 1:-1], set()
    for picture, seen in zip(plain, inside, strict=True):
        (place,) = [
            (up, left)
            for up in range(3)
            for left in range(3)
            if torch.equal(picture[:, up : up + 30, left : left + 30], seen)
        ]
        places.add(place)
    assert len(places) == 9
