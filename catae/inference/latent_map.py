"""The latent map of a run: its test images, drawn where their latents lie."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from catae.data import loader, split
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.latent import projection, space
from catae.latent.projection import Projection
from catae.latent.stats import LatentReport
from catae.report import figures
from catae.run import Run
from catae.training import loop, tensorboard

BATCH = 64  # images to resize at once, so that memory does not grow with their number


def thumbnails(images: ImageStore, positions: Sequence[int], side: int) -> Pixels:
    """Return the images at these positions, resized where they are larger than `side`: uint8 (positions, s, s, 3)."""
    side = min(side, images.size)
    small: Pixels = np.empty((len(positions), side, side, 3), np.uint8)
    for start in range(0, len(positions), BATCH):
        for number, pixels in enumerate(images.take(positions[start : start + BATCH]), start):
            small[number] = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
    return small


def draw_latents(run: Run, images: ImageStore, test: Sequence[int], latents: Tensor, report: LatentReport) -> None:
    """Draw the spread of a run's latents and the map of at most 1,000 test images; write them for the projector.

    Args:
        run: the run whose figure and event log to write.
        images: the image store.
        test: the positions of the test images.
        latents: their latents, (images, latent_dim, 1, 1).
        report: the statistics of the latents of train and test images.
    """
    selected = projection.evenly(range(len(test)))
    positions, latents = [test[number] for number in selected], latents[selected]
    plane, small = projection.pca(latents), thumbnails(images, positions, figures.THUMBNAIL)
    deviations = {"Train": report.train.deviations, "Test": report.test.deviations}
    figures.latents(deviations, plane.points, plane.axes, small, run.latents)
    names = [images.names[position] for position in positions]
    tensorboard.write_embedding(run.events, latents, names, thumbnails(images, positions, tensorboard.SPRITE_SIDE))


def draw_run_map(run: Run, kind: Projection, seed: int, path: Path) -> None:
    """Draw the map of at most 1,000 test images of a run.

    Their latents are those of the model before whitening, after which they vary equally in all directions.

    Raises:
        UserError: the run's images are gone, or UMAP is requested and not installed.
    """
    store = Path(run.read()["data"]["store"])
    if not store.is_dir():
        raise UserError(f"the images of run {run.id} are gone from {store}; train again to read them again")
    images = ImageStore(store)
    positions = projection.evenly(split.open_split(run.split, images.names).test)
    latents = space.encode(loop.load_best(run.checkpoints), loader.ordered_loader(images, positions))
    plane = projection.project(latents, kind, seed)
    title = f"The latents of {len(positions)} test images of run {run.id}"
    figures.latent_map(plane.points, plane.axes, thumbnails(images, positions, figures.THUMBNAIL), path, title)
