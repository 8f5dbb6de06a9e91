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
from catae.evaluation import sliced_wasserstein
from catae.system import rng


def distance(a: Pixels, b: Pixels, seed: int = 0) -> sliced_wasserstein.Distance:
    return sliced_wasserstein.distance(a, b, rng.generator(seed, "patches"))


def plain(*colours: tuple[int, int, int], size: int = 32) -> Pixels:
    """Pictures of one colour each."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), size, size, 3)).copy()


@pytest.fixture(scope="module")
def cats(drawn_set: ImageStore) -> Pixels:
    return drawn_set.take(range(120))


def blurred(pixels: Pixels, radius: float) -> Pixels:
    return np.stack([Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)) for picture in pixels])


def test_a_set_is_at_no_distance_from_itself_and_the_distance_is_the_same_both_ways(cats: Pixels) -> None:
    assert distance(cats, cats).mean == 0
    there, back = distance(cats[:60], cats[60:]), distance(cats[60:], cats[:60])
    assert there.mean == pytest.approx(back.mean, rel=1e-5)
    assert there.levels == pytest.approx(back.levels, rel=1e-5)
    assert list(there.levels) == ["32x32", "16x16"]
    assert there.mean == pytest.approx(sum(there.levels.values()) / 2)


def test_plain_pictures_differ_in_colour_only_and_by_what_can_be_reckoned_by_hand() -> None:
    # The mean of both sets is halfway between the two greys, and the deviation half the step: all numbers of one set
    # are -1, those of the other +1. Along a direction of length 1 they are 2 |sum of its 147 numbers| apart. The sum
    # has mean 0 and variance 1, and is nearly normal: its size is sqrt(2 / pi) on average.
    told = distance(plain(*[(90, 90, 90)] * 4), plain(*[(150, 150, 150)] * 4))
    assert told.levels["16x16"] == pytest.approx(1000 * 2 * np.sqrt(2 / np.pi), rel=0.1)
    assert told.levels["32x32"] == pytest.approx(0, abs=0.1)


def test_along_each_direction_it_is_the_wasserstein_distance_of_scipy(cats: Pixels) -> None:
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
    found = sliced_wasserstein._between(a.clone(), b.clone(), torch.Generator().manual_seed(1))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_pyramid_is_that_of_the_papers_code_and_adds_up_to_the_picture() -> None:
    picture = torch.randn(2, 3, 64, 64, generator=rng.generator(0, "picture"))
    levels = [sliced_wasserstein._level(picture, level) for level in range(3)]
    whole = levels[2]
    for level in (1, 0):
        whole = sliced_wasserstein._double(whole) + levels[level]
    torch.testing.assert_close(whole, picture, atol=1e-5, rtol=0)
    kernel = np.outer(*[np.array([1, 4, 6, 4, 1]) / 16] * 2)[None, None]
    half = ndimage.convolve(picture.numpy(), kernel.astype(np.float32), mode="mirror")[..., ::2, ::2]
    double = np.zeros((2, 3, 64, 64), np.float32)
    double[..., ::2, ::2] = half
    detail = picture.numpy() - ndimage.convolve(double, 4 * kernel.astype(np.float32), mode="mirror")
    np.testing.assert_allclose(levels[0].numpy(), detail, atol=1e-5)


def test_patches_are_those_that_stand_at_their_places(cats: Pixels) -> None:
    places = torch.tensor([[[0, 9], [3, 1]], [[0, 2], [9, 4]]])  # rows and columns, of two pictures and two patches
    patches = sliced_wasserstein._patches(cats[:2], 1, places).view(2, 2, 3, 7, 7)
    shown = sliced_wasserstein._level(torch.from_numpy(cats[:2]).permute(0, 3, 1, 2) / 127.5 - 1, 1)
    torch.testing.assert_close(patches[0, 1], shown[0, :, 9:16, 2:9], atol=1e-5, rtol=0)
    torch.testing.assert_close(patches[1, 0], shown[1, :, 3:10, 9:16], atol=1e-5, rtol=0)


def test_it_grows_with_blur_most_on_the_finest_level_and_with_a_shift_of_the_colours_on_the_coarsest(
    cats: Pixels,
) -> None:
    a, b = cats[:60], cats[60:]
    by_blur = [distance(a, b), *(distance(a, blurred(b, radius)) for radius in (0.5, 1, 2, 4))]
    assert all(less.levels["32x32"] < more.levels["32x32"] for less, more in pairwise(by_blur))
    assert all(less.mean < more.mean for less, more in pairwise(by_blur))
    by_shift = [distance(a, b), *(distance(a, np.minimum(b, 255 - by) + np.uint8(by)) for by in (20, 40, 80))]
    assert all(less.levels["16x16"] < more.levels["16x16"] for less, more in pairwise(by_shift))


def test_the_same_generator_gives_the_same_number_and_another_nearly(cats: Pixels) -> None:
    a, b = cats[:60], blurred(cats[60:], 2)
    assert distance(a, b) == distance(a, b)
    assert distance(a, b, 1) != distance(a, b)
    assert distance(a, b, 1).mean == pytest.approx(distance(a, b).mean, rel=0.1)


def test_sets_of_other_sizes_are_refused(cats: Pixels) -> None:
    with pytest.raises(ValueError, match="sets of one shape"):
        distance(cats[:3], cats[:4])


def test_the_largest_sets_take_under_a_gigabyte_and_seconds() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 2048, 64, 64, 3), np.uint8)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    distance(a, b)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9
    assert time.process_time() - begun < 60
