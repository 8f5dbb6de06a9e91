import numpy as np
import torch
from torchvision.transforms import Compose, Normalize, ToTensor

from catae.data import transforms
from catae.data.image_store import ImageStore

TORCHVISION = Compose([ToTensor(), Normalize(mean=[0.5] * 3, std=[0.5] * 3)])


def test_normalize_equals_torchvision_for_every_value() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert torch.equal(transforms.normalize(pixels)[0], TORCHVISION(pixels[0]))
    assert transforms.normalize(pixels).aminmax() == (-1.0, 1.0)


def test_to_uint8_clamps_without_stretching() -> None:
    batch = torch.tensor([-3.0, -1.0, 0.0, 0.2, 1.0, 9.0]).expand(1, 3, 1, 6)
    assert transforms.to_uint8(batch)[0, 0, :, 0].tolist() == [0, 0, 128, 153, 255, 255]


def test_to_uint8_inverts_normalize(synthetic_images: ImageStore) -> None:
    pixels = synthetic_images.take(range(10))
    assert np.array_equal(transforms.to_uint8(transforms.normalize(pixels)), pixels)
