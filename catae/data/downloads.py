"""Two places that real pictures come from: data sets of Kaggle, and the cats of the Oxford-IIIT pets.

Nothing is imported and nothing is fetched before one of them is asked for.
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
PETS_FOLDER = "oxford-iiit-pet"  # torchvision's name for it
MARGIN = 0.1  # of the head's longer side, added at each side: the boxes are tight, and cut ears off
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError)  # of unpacking what is broken

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PetHead:
    """A cat of the pets: its picture's name, like 'Abyssinian_1.jpg', and file, and the file that tells its head."""

    name: str
    path: Path
    annotation: Path


def kaggle(name: str) -> Path:
    """The folder of the Kaggle data set `name`, from kagglehub's cache or, at first, from Kaggle.

    The cache is `~/.cache/kagglehub`, or what KAGGLEHUB_CACHE says. Without a version Kaggle is asked each time for
    the newest one; with a version that is in the cache no network is needed.

    Args:
        name: `OWNER/NAME`, as in the address of its page, https://www.kaggle.com/datasets/OWNER/NAME, or
            `OWNER/NAME/versions/NUMBER`.

    Raises:
        UserError: kagglehub isn't installed, the name is malformed, or the data set can't be had.
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
        raise UserError(f"kaggle:{name} can't be had: {_refusal(name, error.response.status_code)}") from error
    except requests.RequestException as error:
        raise UserError(
            f"kaggle:{name}: no way to Kaggle ({type(error).__name__}); mend the network and run again, or name a "
            f"version that was downloaded before, like kaggle:{match[1]}/versions/1, which needs no network"
        ) from error
    except (*DAMAGE, OSError, kagglehub.exceptions.DataCorruptionError) as error:
        raise UserError(
            f"kaggle:{name} can't be unpacked or stored: {_line(error)}; mend that, or delete datasets/{match[1]} in "
            "kagglehub's cache (KAGGLEHUB_CACHE, or ~/.cache/kagglehub), and run again"
        ) from error
    logger.info("kaggle:%s is in %s", name, folder)
    return folder


def pets(root: Path | None = None) -> list[PetHead]:
    """The cats of the Oxford-IIIT pets (12 breeds) that have a head box, in the order of their names.

    Those are of the half that the data set means for training; the log says how many are left out. The pets,
    https://www.robots.ox.ac.uk/~vgg/data/pets/, are downloaded by torchvision (800 MB) unless they are there.

    Args:
        root: the folder that has or gets `oxford-iiit-pet`; `$XDG_CACHE_HOME/catae/pets` or else
            `~/.cache/catae/pets` unless told.

    Raises:
        UserError: they can't be downloaded, or what is there isn't whole.
    """
    root = root or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "catae" / "pets"
    folder = root / PETS_FOLDER
    images, boxes = folder / "images", folder / "annotations" / "xmls"
    try:
        _download_pets(root)
        cats = _cats(folder / "annotations" / "list.txt")
        boxed = {path.stem for path in boxes.iterdir()}.intersection(cats)
        if not boxed:
            raise ValueError(f"none of its {len(cats)} cats has a head box in annotations/xmls")
    except (*DAMAGE, OSError, RuntimeError) as error:
        raise UserError(
            f"{folder} isn't whole: {_line(error)}; see that the disk has 2 GB free, delete it and run again"
        ) from error
    logger.info("pets: %d of %d cats have a head box; the others are left out", len(boxed), len(cats))
    return [PetHead(f"{name}.jpg", images / f"{name}.jpg", boxes / f"{name}.xml") for name in sorted(boxed)]


def crop(path: Path, annotation: Path) -> bytes:
    """The head of a pet, as the bytes of a PNG: a square about the middle of the head box, a fifth larger than it.

    Near the picture's edge the square moves, and in a narrow picture it shrinks, so that it holds nothing but picture.

    Args:
        path: the picture.
        annotation: the XML file with the head box, in pixels of the picture.

    Raises:
        Unreadable: the picture or the box is missing or broken; says which.
    """
    head = _head_box(annotation)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow makes of odd metadata is no news
            with Image.open(path) as picture:
                cut = picture.crop(_square(head, picture.size))
            data = io.BytesIO()
            # A JPEG may be CMYK, a PNG may not.
            (cut.convert("RGB") if cut.mode == "CMYK" else cut).save(data, "PNG", compress_level=1)
    except DecodeError:
        raise
    except Exception as error:  # on broken bytes decoders raise whatever they run into
        raise DecodeError(f"it can't be decoded: {_line(error)}") from error
    return data.getvalue()


def _kagglehub(name: str) -> Any:
    """The library, with its log going where any library's goes: it prints to standard output by itself."""
    try:
        import kagglehub
    except ModuleNotFoundError as error:
        if error.name != "kagglehub":
            raise
        raise UserError(f"kaggle:{name} needs the library kagglehub: pip install 'catae[kaggle]'") from error
    log = logging.getLogger("kagglehub")
    for handler in [handler for handler in log.handlers if type(handler) is logging.StreamHandler]:
        log.removeHandler(handler)
    log.propagate = True
    return kagglehub


def _refusal(name: str, status: int) -> str:
    """What an HTTP status of Kaggle means, and what to do."""
    page = f"https://www.kaggle.com/datasets/{name}"
    if status == 404:
        return f"Kaggle has no such data set or version (404); copy its name from its page, {page}"
    if status in (401, 403):
        return (
            f"Kaggle says no ({status}): see that {page} is there, accept its terms if it has any, and set "
            "KAGGLE_API_TOKEN to a token from https://www.kaggle.com/settings"
        )
    return f"Kaggle answers {status}; wait a while and run again"


def _download_pets(root: Path) -> None:
    """Has torchvision see to it that the pets are below `root`; where their folders are there, it fetches nothing."""
    from torchvision.datasets import OxfordIIITPet

    try:
        with _clean_output():
            OxfordIIITPet(root, download=True)
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"pets:cats can't be downloaded: {_line(error)}; mend the network, or unpack images.tar.gz and "
            f"annotations.tar.gz of {PETS_PAGE} into {root / PETS_FOLDER}"
        ) from error


def _cats(listing: Path) -> list[str]:
    """The names of the cats, species 1, in a file of lines 'NAME CLASS SPECIES BREED' and comments after #."""
    rows = [line.split() for line in listing.read_text().splitlines() if not line.startswith("#")]
    return [name for name, _, species, _ in rows if species == "1"]


def _head_box(annotation: Path) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge, in pixels."""
    try:
        # Safe with any file: Python's expat stops at entities that blow up, and fetches none.
        box = ElementTree.parse(annotation).find("object/bndbox")
        if box is None:
            raise ValueError("no object/bndbox in it")
        left, upper, right, lower = (int(box.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DecodeError(f"{annotation.name} has no head box: {_line(error)}") from error
    return left, upper, right, lower


def _square(head: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, upper, right, lower = head
    if not (0 <= left < right <= size[0] and 0 <= upper < lower <= size[1]):
        raise DecodeError(f"its head box {head} isn't within its {size[0]}x{size[1]} pixels")
    side = min(round(max(right - left, lower - upper) * (1 + 2 * MARGIN)), *size)
    x = min(max((left + right - side) // 2, 0), size[0] - side)
    y = min(max((upper + lower - side) // 2, 0), size[1] - side)
    return x, y, x + side, y + side


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _clean_output() -> Iterator[None]:
    """Nothing on standard output; the libraries' progress bars on a terminal, and nowhere else, as with our own."""
    with Path(os.devnull).open("w") as nowhere:
        shown = sys.stderr if sys.stderr.isatty() else nowhere
        with redirect_stdout(shown), redirect_stderr(shown):
            yield
