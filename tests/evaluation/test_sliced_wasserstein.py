import resource
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from scipy.stats import wasserstein_distance

from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.evaluation import sliced_wasserstein as swd
from catae.system import rng


def distance(a: Pixels, b: Pixels, seed: int = 0) -> swd.SlicedWasserstein:
    return swd.sliced_wasserstein(a, b, rng.generator(seed, "patches"))


def plain(*colours: tuple[int, int, int], size: int = 32) -> Pixels:
    """Return images of one colour each."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), size, size, 3)).copy()


@pytest.fixture(scope="module")
def cats(synthetic_images: ImageStore) -> Pixels:
    return synthetic_images.take(range(120))


def blurred(pixels: Pixels, radius: float) -> Pixels:
    return np.stack([Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)) for image in pixels])


def test_the_distance_is_symmetric_and_0_from_a_set_to_itself(cats: Pixels) -> None:
    assert distance(cats, cats).mean == 0
    forth, back = distance(cats[:60], cats[60:]), distance(cats[60:], cats[:60])
    assert forth.mean == pytest.approx(back.mean, rel=1e-5)
    assert forth.levels == pytest.approx(back.levels, rel=1e-5)
    assert list(forth.levels) == ["32x32", "16x16"]
    assert forth.mean == pytest.approx(sum(forth.levels.values()) / 2)


def test_plain_images_differ_by_the_computed_distance_in_colour_only() -> None:
    # The mean of both sets is halfway between the two greys, and the deviation half the step: all pixels of one set
    # become -1, those of the other +1. Along a unit direction they are 2 |sum of its 147 components| apart. The sum
    # has mean 0 and variance 1, and is nearly normal: its absolute value has mean sqrt(2 / pi).
    found = distance(plain(*[(90, 90, 90)] * 4), plain(*[(150, 150, 150)] * 4))
    assert found.levels["16x16"] == pytest.approx(1000 * 2 * np.sqrt(2 / np.pi), rel=0.1)
    assert found.levels["32x32"] == pytest.approx(0, abs=0.1)


def test_along_each_direction_it_equals_scipys_distance(cats: Pixels) -> None:
    a, b = torch.from_numpy(cats[:98].reshape(2, -1, 3, 49)).float()
    pooled = torch.cat([a, b])
    scale, mean = torch.std_mean(pooled, (0, 2), correction=0, keepdim=True)
    directions = torch.randn(512, 147, generator=torch.Generator().manual_seed(1))
    directions /= directions.norm(dim=1, keepdim=True)
    expected = np.mean(
        [
            wasserstein_distance(*(((part - mean) / scale).flatten(1) @ direction for part in (a, b)))
            for direction in directions
        ]
    )
    found = swd._distance(a.clone(), b.clone(), torch.Generator().manual_seed(1))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_pyramid_equals_the_papers_and_adds_up_to_the_image() -> None:
    image = torch.randn(2, 3, 64, 64, generator=rng.generator(0, "image"))
    levels = [swd._level(image, level) for level in range(3)]
    whole = levels[2]
    for level in (1, 0):
        whole = swd._upsample(whole) + levels[level]
    torch.testing.assert_close(whole, image, atol=1e-5, rtol=0)
    kernel = np.outer(*[np.array([1, 4, 6, 4, 1]) / 16] * 2)[None, None]
    half = ndimage.convolve(image.numpy(), kernel.astype(np.float32), mode="mirror")[..., ::2, ::2]
    double = np.zeros((2, 3, 64, 64), np.float32)
    double[..., ::2, ::2] = half
    detail = image.numpy() - ndimage.convolve(double, 4 * kernel.astype(np.float32), mode="mirror")
    np.testing.assert_allclose(levels[0].numpy(), detail, atol=1e-5)


def test_patches_are_cut_at_their_corners(cats: Pixels) -> None:
    corners = torch.tensor([[[0, 9], [3, 1]], [[0, 2], [9, 4]]])  # rows and columns, of two images and two patches
    patches = swd._patches(cats[:2], 1, corners).view(2, 2, 3, 7, 7)
    level = swd._level(torch.from_numpy(cats[:2]).permute(0, 3, 1, 2) / 127.5 - 1, 1)
    torch.testing.assert_close(patches[0, 1], level[0, :, 9:16, 2:9], atol=1e-5, rtol=0)
    torch.testing.assert_close(patches[1, 0], level[1, :, 3:10, 9:16], atol=1e-5, rtol=0)


def test_blur_changes_the_finest_level_and_a_colour_shift_the_coarsest(
    cats: Pixels,
) -> None:
    a, b = cats[:60], cats[60:]
    by_blur = [distance(a, b), *(distance(a, blurred(b, radius)) for radius in (0.5, 1, 2, 4))]
    assert all(less.levels["32x32"] < more.levels["32x32"] for less, more in pairwise(by_blur))
    assert all(less.mean < more.mean for less, more in pairwise(by_blur))
    by_shift = [distance(a, b), *(distance(a, np.minimum(b, 255 - by) + np.uint8(by)) for by in (20, 40, 80))]
    assert all(less.levels["16x16"] < more.levels["16x16"] for less, more in pairwise(by_shift))


def test_the_seed_decides_the_distance_which_varies_little(cats: Pixels) -> None:
    a, b = cats[:60], blurred(cats[60:], 2)
    assert distance(a, b) == distance(a, b)
    assert distance(a, b, 1) != distance(a, b)
    assert distance(a, b, 1).mean == pytest.approx(distance(a, b).mean, rel=0.1)


def test_different_shapes_are_rejected(cats: Pixels) -> None:
    with pytest.raises(ValueError, match="sets of images of different shapes"):
        distance(cats[:3], cats[:4])


def test_large_sets_take_under_a_gigabyte_and_a_minute() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 2048, 64, 64, 3), np.uint8)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    distance(a, b)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9
    assert time.process_time() - begun < 60
