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


def test_affine_rotates_and_zooms_some_images_about_their_centre() -> None:
    size, count = 64, 200
    coordinates = (np.arange(size) + 0.5) / size * 2 - 1  # from -1 to 1, as the matrices have them
    gradient = np.rint(127.5 + 80 * coordinates).astype(np.uint8)
    pixels = np.zeros((count, size, size, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = gradient, gradient[:, None]
    augmentation = transforms.Augmentation.sample(count, 0, 0, 0.5, torch.Generator().manual_seed(1))
    batch = augmentation.apply(pixels.copy(), range(count))
    assert torch.equal(batch[~augmentation.affine], transforms.normalize(pixels)[~augmentation.affine])
    assert 70 <= augmentation.affine.sum() <= 130

    angles, zooms = [], []
    centre = slice(16, 48)
    for image in batch[augmentation.affine]:
        # The slopes of the red gradient are the first row of the matrix, and those of the green one the second.
        down, right = (torch.gradient(image, dim=axis)[0][:2, centre, centre].mean((1, 2)) for axis in (1, 2))
        matrix = torch.stack([right, down], 1) * 127.5 / 80 * size / 2
        angles.append(float(torch.atan2(matrix[1, 0], matrix[0, 0])))
        zooms.append(float(matrix.det().sqrt()))
        assert torch.allclose(matrix[0, 0], matrix[1, 1], atol=0.01)  # no shear
        assert torch.allclose(matrix[0, 1], -matrix[1, 0], atol=0.01)
        assert image[:, 31:33, 31:33].mean((1, 2))[:2].abs().max() < 0.01  # the centre stays
    assert 0.14 < max(angles) < 0.16
    assert -0.16 < min(angles) < -0.14
    assert 1.07 < max(zooms) < 1.1
    assert 0.9 < min(zooms) < 0.93
