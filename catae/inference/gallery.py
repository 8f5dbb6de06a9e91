"""What a trained model shows: pictures restored, and new ones; and the pictures that a user names to show."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from catae.data import decode, split, transforms
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.errors import DecodeError, UserError
from catae.evaluation import samples
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
    "randn": "random latents of N(0, I): torch.randn(1, latent_dim, 1, 1) through the decoder",
    "gaussian": "random latents of a Gaussian fitted to the train latents (mean and full covariance)",
    "mixture": "random latents of a mixture of Gaussians fitted to the train latents",
    "neighbours": "train latents, each moved a random part of the way towards one of its nearest",
}


@torch.inference_mode()
def restore(model: AutoEncoder, pixels: Pixels, path: Path, what: str) -> None:
    """Draws pictures over their restorations.

    Args:
        model: what restores them.
        pixels: uint8 (pictures, size, size, 3), at least one.
        path: the PNG to write.
        what: what the pictures are, for the title.
    """
    pictures = transforms.normalize(pixels)
    restored = transforms.to_uint8(model(pictures))
    figures.pairs(pixels, restored, path, f"{len(pixels)} {what} (upper rows), as the model restores them (lower rows)")


def generate(model: AutoEncoder, fitted: Priors, prior: priors.Name, count: int, seed: int, path: Path) -> None:
    """Draws pictures decoded from random latents; the same seed gives the same file.

    Args:
        model: what decodes them.
        fitted: the priors of the model's run.
        prior: what the latents are samples of.
        count: how many pictures.
        seed: decides the samples.
        path: the PNG to write.
    """
    pixels = space.decode(model, fitted[prior].sample(count, seed))
    figures.grid(pixels, path, f"{count} {PRIORS[prior]}, seed {seed}")


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
        f"{NEAREST} images of random latents of the prior {prior}, seed {seed} (upper rows), and the nearest to\n"
        f"each in its pixels, by L2, of {counted(len(parts.train), 'train image')} (lower rows)"
    )
    figures.pairs(pixels, images.take(positions), path, title)


def pair(names: Sequence[str], test: Sequence[int], wanted: str, seed: int) -> list[int]:
    """The positions of two test pictures to walk between.

    Args:
        names: of all pictures.
        test: the positions of the test pictures.
        wanted: two names, as 'a,b'; two are taken by seed where it is empty.
        seed: decides which.

    Raises:
        UserError: a name that is wanted is not one of a test picture.
    """
    if not wanted:
        order = torch.randperm(len(test), generator=rng.generator(seed, "interpolation pair")).tolist()
        return [test[order[0]], test[order[-1]]]
    return [position_of(name.strip(), names, test) for name in wanted.split(",")]


def position_of(name: str, names: Sequence[str], test: Sequence[int]) -> int:
    """The position of the test picture called `name`.

    Raises:
        UserError: no test picture has that name; says which is nearest.
    """
    positions = {names[position]: position for position in test}
    if name not in positions:
        near = difflib.get_close_matches(name, positions, n=1, cutoff=0.0)
        why = "is a train picture" if name in names else "is no picture of this run"
        raise UserError(f"{name!r} {why}; name one of the {len(test)} test pictures in split.json, like {near[0]}")
    return positions[name]


def generate_from(run: Run, prior: priors.Name, count: int, seed: int, path: Path) -> None:
    """Draws pictures as `generate` does, with the model and the priors of a run."""
    generate(weights.load(run.model), priors.load(run.priors), prior, count, seed, path)


def pictures(run: Run, wanted: Sequence[str], size: int) -> Pixels:
    """Pictures that the user names: by the path of a file, or by the name of one of the run's test pictures.

    Args:
        run: whose test pictures.
        wanted: at least one.
        size: height and width to give, in pixels.

    Returns:
        uint8 (pictures, size, size, 3).

    Raises:
        UserError: there is no such picture, or it can't be decoded.
    """
    return np.stack(
        [
            _from_file(Path(name).expanduser(), size) if Path(name).expanduser().is_file() else _from_run(run, name)
            for name in wanted
        ]
    )


def _from_file(path: Path, size: int) -> Pixels:
    try:
        return decode.decode(path.read_bytes(), size)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except DecodeError as error:
        raise UserError(f"{path}: {error}") from error


def _from_run(run: Run, name: str) -> Pixels:
    store = Path(run.read()["data"]["store"])
    if not store.is_dir():
        raise UserError(
            f"{name!r} is no file, and the run's pictures are gone from {store}; give the path of a picture"
        )
    image_set = ImageStore(store)
    parts = split.open_split(run.split, image_set.names)
    (taken,) = image_set.take([position_of(name, image_set.names, parts.test)])
    return np.asarray(taken)
