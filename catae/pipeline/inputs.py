"""What most stages start from: a run's images and their split."""

from dataclasses import dataclass
from pathlib import Path

from catae.data.image_store import ImageStore
from catae.data.split import Split, open_split
from catae.run import Run


@dataclass(frozen=True)
class Inputs:
    """The images of a run, read from disk on access, and their split."""

    images: ImageStore
    split: Split


def image_folder(run: Run) -> Path:
    """Return the folder of the run's image set, in the cache."""
    return Path(run.read()["data"]["store"])


def load_inputs(run: Run) -> Inputs:
    """Open the run's images and its split.

    Raises:
        UserError: one of them is missing or damaged.
    """
    images = ImageStore(image_folder(run))
    return Inputs(images, open_split(run.split, images.names))
