"""Draw what a trained model makes: reconstructions and random samples; load the images that a user names."""

import difflib
import posixpath
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from catae.data import split, transforms
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.errors import UserError
from catae.evaluation import samples
from catae.inference.pretrained import read_image
from catae.latent import priors, space
from catae.latent.priors import Priors
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.report import figures
from catae.run import Run
from catae.system import rng
from catae.system.text import count as counted

NEAREST = 16  # samples in nearest.png
PRIORS: dict[priors.Name, str] = {
    "randn": "samples of N(0, I): torch.randn(1, latent_dim, 1, 1) through the decoder",
    "gaussian": "samples of a Gaussian fitted to the train latents (mean and full covariance)",
    "mixture": "samples of a mixture of Gaussians fitted to the train latents",
    "neighbours": "samples between train latents and their nearest neighbours",
}


@torch.inference_mode()
def draw_reconstructions(model: AutoEncoder, pixels: Pixels, path: Path, what: str) -> None:
    """Draw images in rows, each row above the row of their reconstructions.

    Args:
        model: the model.
        pixels: uint8 (images, size, size, 3), at least one.
        path: the PNG to write.
        what: what the images are, for the title, like 'test images'.
    """
    reconstructions = transforms.to_uint8(model(transforms.normalize(pixels)))
    title = f"{len(pixels)} {what} (upper rows) and their reconstructions (lower rows)"
    figures.pairs(pixels, reconstructions, path, title)


def draw_samples(model: AutoEncoder, fitted: Priors, prior: priors.Name, count: int, seed: int, path: Path) -> None:
    """Draw images decoded from random latents. The same seed gives the same file.

    Args:
        model: the model that decodes them.
        fitted: the priors of the model's run.
        prior: the prior to sample.
        count: number of images.
        seed: decides the samples.
        path: the PNG to write.
    """
    pixels = space.decode(model, fitted[prior].sample(count, seed))
    basis = "" if model.whitened else ", before whitening"
    figures.grid(pixels, path, f"{count} {PRIORS[prior]}{basis}, seed {seed}")


def draw_run_samples(run: Run, prior: priors.Name, count: int, seed: int, path: Path) -> None:
    """Draw images as `draw_samples` does, with the model and the priors of a run."""
    draw_samples(weights.load(run.model), priors.load(run.priors), prior, count, seed, path)


def draw_nearest(
    model: AutoEncoder, fitted: Priors, prior: priors.Name, images: ImageStore, parts: Split, seed: int, path: Path
) -> None:
    """Draw samples of a prior above the train images that are nearest to them.

    Args:
        model: the model that decodes them.
        fitted: the priors of the model's run.
        prior: the prior to sample.
        images: the image store.
        parts: the split.
        seed: decides the samples.
        path: the PNG to write.
    """
    pixels = samples.decode_samples(model, fitted, prior, NEAREST, seed)
    positions, _ = samples.find_nearest(pixels, images, parts.train)
    title = (
        f"{NEAREST} samples of the prior {prior}, seed {seed} (upper rows), and the nearest of "
        f"{counted(len(parts.train), 'train image')} to each, in L2 distance of pixels (lower rows)"
    )
    figures.pairs(pixels, images.take(positions), path, title)


def choose_pair(names: Sequence[str], test: Sequence[int], pair: str, seed: int) -> list[int]:
    """Return the positions of two test images to interpolate between.

    Args:
        names: names of all images.
        test: positions of the test images.
        pair: two names, as 'a,b'; if it is empty, the seed chooses two.
        seed: decides which.

    Raises:
        UserError: one of the names is not a test image.
    """
    if not pair:
        order = torch.randperm(len(test), generator=rng.generator(seed, "interpolation pair")).tolist()
        return [test[order[0]], test[order[-1]]]
    return [find_test_image(name.strip(), names, test) for name in pair.split(",")]


def find_test_image(name: str, names: Sequence[str], test: Sequence[int]) -> int:
    """Return the position of the test image called `name`.

    Raises:
        UserError: no test image has that name; the message suggests the most similar one.
    """
    positions = {names[position]: position for position in test}
    if name not in positions:  # as a shell completes it, or as tar stores it
        plain = {posixpath.normpath(known): known for known in names}
        name = plain.get(posixpath.normpath(name), name)
    if name not in positions:
        near = difflib.get_close_matches(name, positions, n=1, cutoff=0.0)
        why = "is a train image" if name in names else "is not an image of this run"
        raise UserError(f"{name!r} {why}; name one of the {len(test)} test images in split.json, like {near[0]}")
    return positions[name]


def load_images(run: Run, names: Sequence[str], size: int) -> Pixels:
    """Load the images that a user names: the path of a file, or the name of one of the run's test images.

    Args:
        run: the run whose test images can be named.
        names: at least one.
        size: height and width of the result, in pixels.

    Returns:
        uint8 (images, size, size, 3).

    Raises:
        UserError: there is no such image, or it cannot be decoded.
    """
    return np.stack(
        [
            read_image(Path(name).expanduser(), size) if Path(name).expanduser().is_file() else _from_run(run, name)
            for name in names
        ]
    )


def _from_run(run: Run, name: str) -> Pixels:
    store = Path(run.read()["data"]["store"])
    if not store.is_dir():
        raise UserError(f"there is no file {name!r}, and the run's images are gone from {store}; give an image's path")
    image_set = ImageStore(store)
    test = split.open_split(run.split, image_set.names).test
    return np.asarray(image_set.take([find_test_image(name, image_set.names, test)])[0])
