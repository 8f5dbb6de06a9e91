"""How realistic samples are: their distance from test images, and how near they are to train images.

Decoded samples of each prior are compared with test images by the sliced Wasserstein distance. Samples of the best
prior are looked up among the train images, which shows whether they are copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.data.transforms import normalize, to_uint8
from catae.evaluation.sliced_wasserstein import SlicedWasserstein, sliced_wasserstein
from catae.latent import priors, space
from catae.latent.priors import Priors
from catae.model.autoencoder import AutoEncoder
from catae.system import rng
from catae.system.text import count

COMPARED = 512  # images per set: the distance of two sets of 64x64 takes 2.5 s of one CPU
LOOKED_UP = 128  # images whose nearest train images are searched
BATCH = 256  # images


@dataclass(frozen=True)
class NearestDistances:
    """Mean distances to the nearest train image: the root mean square difference of pixels in [0, 1].

    Attributes:
        pictures: number of images per set.
        train: number of train images searched.
        samples: of samples of the best prior.
        test: of test images.
        restorations: of reconstructed test images; they are as smooth as samples, and so nearer to every image.
        copies: of reconstructed train images: what samples would have if they were copies.
    """

    pictures: int
    train: int
    samples: float
    test: float
    restorations: float
    copies: float


@dataclass(frozen=True)
class SampleScores:
    """Distances of equally large sets from the test images, and distances to the nearest train image.

    Attributes:
        pictures: number of images per set.
        distances: of the samples of each prior.
        restorations: of reconstructed test images: the effect of the decoder on any image.
        floor: of train images. These are real, so samples cannot be expected to be nearer.
        best: the prior whose samples are nearest.
        nearest: mean distances to the nearest train image.
    """

    pictures: int
    distances: dict[priors.Name, SlicedWasserstein]
    restorations: SlicedWasserstein
    floor: SlicedWasserstein
    best: priors.Name
    nearest: NearestDistances


def score_samples(model: AutoEncoder, fitted: Priors, images: ImageStore, parts: Split, seed: int) -> SampleScores:
    """Return the scores of decoded samples of each prior.

    Args:
        model: the model that decodes them.
        fitted: its priors.
        images: the image store.
        parts: the split.
        seed: decides the samples, and which images they are compared with if there are more than 512.
    """
    train, test = select_real(images, parts, seed)
    reconstructions, size = _reconstruct(model, test), len(test)

    def distance(pixels: Pixels) -> SlicedWasserstein:
        return sliced_wasserstein(pixels, test, rng.generator(seed, "patches"))

    distances = {name: distance(decode_samples(model, fitted, name, size, seed)) for name in fitted}
    best = min(distances, key=lambda name: distances[name].mean)

    looked_up = min(size, LOOKED_UP)
    samples = decode_samples(model, fitted, best, looked_up, seed)
    sets = (samples, test, reconstructions, _reconstruct(model, train[:looked_up]))
    _, nearest = find_nearest(np.concatenate([pixels[:looked_up] for pixels in sets]), images, parts.train)
    means = nearest.reshape(len(sets), looked_up).mean(1).tolist()
    return SampleScores(
        pictures=size,
        distances=distances,
        restorations=distance(reconstructions),
        floor=distance(train),
        best=best,
        nearest=NearestDistances(looked_up, len(parts.train), *means),
    )


def select_real(images: ImageStore, parts: Split, seed: int) -> tuple[Pixels, Pixels]:
    """Return equally many random training and test images, at most 512 of each."""
    size = min(len(parts.train), len(parts.test), COMPARED)
    train, test = (_select(images, positions, size, seed) for positions in (parts.train, parts.test))
    return train, test


def decode_samples(model: AutoEncoder, fitted: Priors, prior: priors.Name, size: int, seed: int) -> Pixels:
    """Return decoded samples of a prior, the first of which `generated.png` shows: uint8 (size, height, width, 3)."""
    return space.decode(model, fitted[prior].sample(size, seed))


def find_nearest(
    pixels: Pixels, images: ImageStore, positions: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return, for each image, the nearest of the images at `positions` (L2 distance of pixels), and its distance.

    Args:
        pixels: uint8 (count, size, size, 3).
        images: the image store to search.
        positions: where to search, at least one.

    Returns:
        The positions of the nearest images and the root mean square differences of pixels in [0, 1]: (count,) each.
    """
    queries = _flatten(pixels)
    smallest = torch.full((len(pixels),), torch.inf)
    nearest = torch.zeros(len(pixels), dtype=torch.int64)
    for batch in torch.split(torch.tensor(positions), BATCH):
        candidates = _flatten(images.take(batch.numpy()))
        # The squared distance, less the query's own square, which is the same for all candidates.
        distances, indices = (candidates.square().sum(1) - 2 * queries @ candidates.T).min(1)
        nearest = torch.where(distances < smallest, batch[indices], nearest)
        smallest = torch.minimum(distances, smallest)
    difference = (_flatten(images.take(nearest.numpy())) - queries).square().mean(1).sqrt()
    return nearest.numpy(), difference.double().numpy()


def summarize(scores: SampleScores) -> str:
    """Return the distances in three lines of at most 80 columns."""
    by_prior = ", ".join(f"{name} {distance.mean:.1f}" for name, distance in scores.distances.items())
    return (
        f"sliced Wasserstein distance from {count(scores.pictures, 'test image')}:\n"
        f"  train images {scores.floor.mean:.1f}, reconstructions {scores.restorations.mean:.1f},\n"
        f"  samples: {by_prior}"
    )


@torch.inference_mode()
def _reconstruct(model: AutoEncoder, pixels: Pixels) -> Pixels:
    batches = np.split(pixels, range(BATCH, len(pixels), BATCH))
    return np.concatenate([to_uint8(model(normalize(batch))) for batch in batches])


def _select(images: ImageStore, positions: Sequence[int], size: int, seed: int) -> Pixels:
    """Return `size` random images of those at `positions`."""
    order = torch.randperm(len(positions), generator=rng.generator(seed, "pictures to compare with"))
    return images.take(np.asarray(positions, np.int64)[order[:size].numpy()])


def _flatten(pixels: Pixels) -> Tensor:
    """Return images as rows of floats in [0, 1]."""
    return torch.from_numpy(pixels.reshape(len(pixels), -1)).float() / 255
