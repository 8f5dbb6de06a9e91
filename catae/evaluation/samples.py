"""How like real pictures those of random latents are: how far from test pictures, and how near to train pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catae.data import transforms
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.evaluation import sliced_wasserstein
from catae.evaluation.sliced_wasserstein import Distance
from catae.latent import priors, space
from catae.latent.priors import Priors
from catae.model.autoencoder import AutoEncoder
from catae.report import figures
from catae.system import rng
from catae.system.text import count

MOST = 512  # pictures of a set to measure distances of: 2.5 s of one CPU for two such sets of 64x64
LOOKED_UP = 128  # pictures to look up the nearest of
SHOWN = 16  # pictures in nearest.png
AT_A_TIME = 256  # train pictures


@dataclass(frozen=True)
class Nearest:
    """Mean distances to the nearest train picture: root mean squares of differences of pixels in [0, 1].

    Attributes:
        pictures: in each set.
        train: how many train pictures there are to be near to.
        samples: of the best prior.
        test: of test pictures.
        restorations: of the test pictures' restorations, which are as smooth as samples, and so nearer to everything.
        copies: of train pictures' restorations: where samples would be if they were copies.
    """

    pictures: int
    train: int
    samples: float
    test: float
    restorations: float
    copies: float


@dataclass(frozen=True)
class Generation:
    """Distances from test pictures, of sets of equal size, and distances to the nearest train picture.

    Attributes:
        pictures: in each set.
        distances: from the test pictures, of the samples of each prior.
        restorations: the distance of the test pictures' own restorations: what the decoder does to any picture.
        floor: the distance of as many train pictures, which are real: no samples should be expected to be nearer.
        best: the prior whose samples are nearest.
        nearest: means over pictures of their distance to the nearest train picture.
    """

    pictures: int
    distances: dict[priors.Name, Distance]
    restorations: Distance
    floor: Distance
    best: priors.Name
    nearest: Nearest


def measure(model: AutoEncoder, fitted: Priors, images: ImageStore, parts: Split, seed: int) -> Generation:
    """Measures what a model makes of samples of each of its priors.

    Args:
        model: what decodes them.
        fitted: its priors.
        images: all pictures.
        parts: which of them are train, and which are test.
        seed: decides the samples, and which pictures they are compared with where there are more than 512.
    """
    train, test = real(images, parts, seed)
    restored, pictures = _restored(model, test), len(test)

    def distance(pixels: Pixels) -> Distance:
        return sliced_wasserstein.distance(pixels, test, rng.generator(seed, "patches"))

    distances = {name: distance(samples(model, fitted, name, pictures, seed)) for name in fitted}
    best = min(distances, key=lambda name: distances[name].mean)

    looked_up = min(pictures, LOOKED_UP)
    sets = (samples(model, fitted, best, looked_up, seed), test, restored, _restored(model, train[:looked_up]))
    _, apart = nearest(np.concatenate([pixels[:looked_up] for pixels in sets]), images, parts.train)
    means = apart.reshape(len(sets), looked_up).mean(1).tolist()
    return Generation(
        pictures, distances, distance(restored), distance(train), best, Nearest(looked_up, len(parts.train), *means)
    )


def real(images: ImageStore, parts: Split, seed: int) -> tuple[Pixels, Pixels]:
    """Train and test pictures to compare with, as many of one as of the other and at most 512, at random."""
    number = min(len(parts.train), len(parts.test), MOST)
    train, test = (_some(images, part, number, seed) for part in (parts.train, parts.test))
    return train, test


def samples(model: AutoEncoder, fitted: Priors, prior: priors.Name, number: int, seed: int) -> Pixels:
    """Pictures of random latents, the first of which `generated.png` shows: uint8 (number, size, size, 3)."""
    return space.decode(model, fitted[prior].sample(number, seed))


def nearest(
    pixels: Pixels, images: ImageStore, positions: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each picture the one at `positions` that is nearest in its pixels (L2), and how far that is.

    Args:
        pixels: uint8 (pictures, size, size, 3).
        images: the set to look in.
        positions: where to look, at least one.

    Returns:
        The nearest ones' positions, and root mean squares of differences of pixels in [0, 1]: (pictures,) each.
    """
    wanted = _flat(pixels)
    closest = torch.full((len(pixels),), torch.inf)
    found = torch.zeros(len(pixels), dtype=torch.int64)
    for part in torch.split(torch.tensor(positions), AT_A_TIME):
        there = _flat(images.take(part.numpy()))
        # The squared distance, without the wanted picture's own square, which is the same for all.
        apart, which = (there.square().sum(1) - 2 * wanted @ there.T).min(1)
        found = torch.where(apart < closest, part[which], found)
        closest = torch.minimum(apart, closest)
    off = (_flat(images.take(found.numpy())) - wanted).square().mean(1).sqrt()
    return found.numpy(), off.double().numpy()


def draw_nearest(
    model: AutoEncoder, fitted: Priors, prior: priors.Name, images: ImageStore, parts: Split, seed: int, path: Path
) -> None:
    """Draws samples of a prior over the train pictures that are nearest to them.

    Args:
        model: what decodes them.
        fitted: the model's priors.
        prior: what the latents are samples of.
        images: all pictures.
        parts: which of them are train.
        seed: decides the samples.
        path: the PNG to write.
    """
    pixels = samples(model, fitted, prior, SHOWN, seed)
    found, _ = nearest(pixels, images, parts.train)
    title = (
        f"{SHOWN} pictures of random latents of the prior {prior}, seed {seed} (upper rows), and the nearest to\n"
        f"each in its pixels, by L2, of {count(len(parts.train), 'train picture')} (lower rows)"
    )
    figures.pairs(pixels, images.take(found), path, title)


def summary(measured: Generation) -> str:
    """The distances in three lines of a terminal of 80 columns."""
    told = ", ".join(f"{name} {distance.mean:.1f}" for name, distance in measured.distances.items())
    return (
        f"sliced Wasserstein distance from {count(measured.pictures, 'test picture')}:\n"
        f"  train pictures {measured.floor.mean:.1f}, restorations {measured.restorations.mean:.1f},\n"
        f"  random pictures: {told}"
    )


@torch.inference_mode()
def _restored(model: AutoEncoder, pixels: Pixels) -> Pixels:
    parts = np.split(pixels, range(AT_A_TIME, len(pixels), AT_A_TIME))
    return np.concatenate([transforms.to_uint8(model(transforms.normalize(part))) for part in parts])


def _some(images: ImageStore, positions: Sequence[int], number: int, seed: int) -> Pixels:
    """So many of the pictures at these positions, at random."""
    order = torch.randperm(len(positions), generator=rng.generator(seed, "pictures to compare with"))
    return images.take(np.asarray(positions, np.int64)[order[:number].numpy()])


def _flat(pixels: Pixels) -> Tensor:
    """Pictures as rows of numbers in [0, 1]."""
    return torch.from_numpy(pixels.reshape(len(pixels), -1)).float() / 255
