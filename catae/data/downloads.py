"""Download datasets of Kaggle and the cats of the Oxford-IIIT pets.

Their libraries are imported only when needed.
"""

import io
import logging
import os
import re
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from xml.etree import ElementTree

from PIL import Image

from catae.errors import DecodeError, UserError

KAGGLE_NAME = re.compile(r"([A-Za-z0-9][\w-]*/[A-Za-z0-9][\w-]*)(/versions/[1-9][0-9]*)?", re.ASCII)
PETS_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
PETS_FOLDER = "oxford-iiit-pet"  # as torchvision names it
MARGIN = 0.1  # added at each side, as a fraction of the longer side: the head boxes are tight and cut off ears
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    ValueError,
)  # raised when a damaged archive is unpacked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PetHead:
    """A cat of the Oxford pets with a head box.

    Attributes:
        name: name of the image, such as 'Abyssinian_1.jpg'.
        path: the image.
        annotation: the XML file with the head box.
    """

    name: str
    path: Path
    annotation: Path


def kaggle(name: str) -> Path:
    """Return the folder of a Kaggle dataset, downloading it if it is not in kagglehub's cache.

    The cache is `~/.cache/kagglehub`, or KAGGLEHUB_CACHE. Without a version, each call asks Kaggle for the newest one.
    A version in the cache needs no network.

    Args:
        name: `OWNER/NAME`, as in the URL https://www.kaggle.com/datasets/OWNER/NAME, or `OWNER/NAME/versions/NUMBER`.

    Raises:
        UserError: kagglehub is not installed, the name is malformed, or the download fails.
    """
    match = KAGGLE_NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"--source is {'kaggle:' + name!r}: it must be kaggle:OWNER/NAME or kaggle:OWNER/NAME/versions/NUMBER, "
            "like kaggle:spandan2/cats-faces-64x64-for-generative-models"
        )
    kagglehub = _kagglehub(name)
    import requests

    try:
        with _clean_output():
            folder = Path(kagglehub.dataset_download(name))
    except requests.HTTPError as error:
        if error.response is None:
            raise
        error.response.close()
        raise UserError(f"cannot download kaggle:{name}: {_http_error(name, error.response.status_code)}") from error
    except requests.RequestException as error:
        raise UserError(
            f"cannot download kaggle:{name}: Kaggle cannot be reached ({type(error).__name__}); fix the network and "
            f"run again, or use a version in the cache, such as kaggle:{match[1]}/versions/1"
        ) from error
    except (*DAMAGE, OSError, kagglehub.exceptions.DataCorruptionError) as error:
        raise UserError(
            f"cannot unpack or store kaggle:{name}: {_line(error)}; fix that, or delete datasets/{match[1]} in "
            "kagglehub's cache (KAGGLEHUB_CACHE, or ~/.cache/kagglehub), and run again"
        ) from error
    logger.info("kaggle:%s is in %s", name, folder)
    return folder


def pets(root: Path | None = None) -> list[PetHead]:
    """Return the cats of the Oxford-IIIT pets (12 breeds) that have a head box, sorted by name.

    Only the dataset's training half has head boxes; the log reports how many cats are left out. torchvision downloads
    https://www.robots.ox.ac.uk/~vgg/data/pets/ (800 MB) unless `root` has it.

    Args:
        root: the folder of `oxford-iiit-pet`; by default `$XDG_CACHE_HOME/catae/pets`, or `~/.cache/catae/pets`.

    Raises:
        UserError: the download fails, or the folder is incomplete.
    """
    root = root or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "catae" / "pets"
    folder = root / PETS_FOLDER
    images, boxes = folder / "images", folder / "annotations" / "xmls"
    try:
        _download_pets(root)
        cats = _cats(folder / "annotations" / "list.txt")
        boxed = {path.stem for path in boxes.iterdir()}.intersection(cats)
        if not boxed:
            raise ValueError(f"annotations/xmls has no head box of its {len(cats)} cats")
    except (*DAMAGE, OSError, RuntimeError) as error:
        raise UserError(
            f"{folder} is incomplete: {_line(error)}; make sure that the disk has 2 GB free, delete it and run again"
        ) from error
    logger.info("pets: %d of %d cats have a head box; the others are left out", len(boxed), len(cats))
    return [PetHead(f"{name}.jpg", images / f"{name}.jpg", boxes / f"{name}.xml") for name in sorted(boxed)]


def crop_head(path: Path, annotation: Path) -> bytes:
    """Crop the head of a pet to a square and return it as the bytes of a PNG.

    The square is centred on the head box and a fifth larger. It moves, and in a narrow image shrinks, to stay within
    the image.

    Args:
        path: the image.
        annotation: the XML file with the head box, in pixels of the image.

    Raises:
        DecodeError: the image or the head box is missing or damaged.
    """
    head = _head_box(annotation)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata, which does not matter
            with Image.open(path) as image:
                cropped = image.crop(_square(head, image.size))
            data = io.BytesIO()
            # PNG, unlike JPEG, has no CMYK.
            (cropped.convert("RGB") if cropped.mode == "CMYK" else cropped).save(data, "PNG", compress_level=1)
    except DecodeError:
        raise
    except Exception as error:  # on damaged data decoders raise any exception
        raise DecodeError(f"cannot be decoded: {_line(error)}") from error
    return data.getvalue()


def _kagglehub(name: str) -> Any:
    """Import kagglehub and let its log propagate, instead of going to standard output."""
    try:
        import kagglehub
    except ModuleNotFoundError as error:
        if error.name != "kagglehub":
            raise
        raise UserError(f"kaggle:{name} needs kagglehub: pip install 'catae[kaggle]'") from error
    log = logging.getLogger("kagglehub")
    for handler in [handler for handler in log.handlers if type(handler) is logging.StreamHandler]:
        log.removeHandler(handler)
    log.propagate = True
    return kagglehub


def _http_error(name: str, status: int) -> str:
    """Return what an HTTP status of Kaggle means, and what to do."""
    page = f"https://www.kaggle.com/datasets/{name}"
    if status == 404:
        return f"Kaggle has no such dataset or version (404); copy the name from {page}"
    if status in (401, 403):
        return (
            f"Kaggle denies access ({status}); check that {page} exists, accept its terms, and set KAGGLE_API_TOKEN "
            "to a token from https://www.kaggle.com/settings"
        )
    return f"Kaggle responds with {status}; wait a while and run again"


def _download_pets(root: Path) -> None:
    """Download the pets below `root` with torchvision, which skips the download if their folders exist."""
    from torchvision.datasets import OxfordIIITPet

    try:
        with _clean_output():
            OxfordIIITPet(root, download=True)
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"cannot download pets:cats: {_line(error)}; fix the network and run again, or unpack images.tar.gz and "
            f"annotations.tar.gz of {PETS_PAGE} into {root / PETS_FOLDER}"
        ) from error


def _cats(listing: Path) -> list[str]:
    """Return the names of the cats (species 1) in a file of lines 'NAME CLASS SPECIES BREED' and # comments."""
    rows = [line.split() for line in listing.read_text().splitlines() if not line.startswith("#")]
    return [name for name, _, species, _ in rows if species == "1"]


def _head_box(annotation: Path) -> tuple[int, int, int, int]:
    """Return the left, upper, right and lower edge, in pixels."""
    try:
        # Safe with untrusted files: Python's expat limits entity expansion and loads no external entities.
        box = ElementTree.parse(annotation).find("object/bndbox")
        if box is None:
            raise ValueError("no object/bndbox")
        left, upper, right, lower = (int(box.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DecodeError(f"{annotation.name} has no head box: {_line(error)}") from error
    return left, upper, right, lower


def _square(head: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, upper, right, lower = head
    if not (0 <= left < right <= size[0] and 0 <= upper < lower <= size[1]):
        raise DecodeError(f"its head box {head} exceeds its {size[0]}x{size[1]} pixels")
    side = min(round(max(right - left, lower - upper) * (1 + 2 * MARGIN)), *size)
    x = min(max((left + right - side) // 2, 0), size[0] - side)
    y = min(max((upper + lower - side) // 2, 0), size[1] - side)
    return x, y, x + side, y + side


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _clean_output() -> Iterator[None]:
    """Keep standard output clean, and show the libraries' progress bars only on a terminal."""
    with Path(os.devnull).open("w") as null:
        output = sys.stderr if sys.stderr.isatty() else null
        with redirect_stdout(output), redirect_stderr(output):
            yield
