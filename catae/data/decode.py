"""Decode the bytes of an image file to RGB pixels of a fixed size.

A plain JPEG of the right size is decoded by simplejpeg in threads; anything else by Pillow in worker processes.
simplejpeg releases the GIL: on small images two threads are three times as fast as two processes with Pillow. Both use
libjpeg-turbo and return the same pixels, which a test compares. Keep imports few: every worker process pays for them.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from catae.data.sources import EXTENSIONS, Entry
from catae.errors import DecodeError

Pixels = npt.NDArray[np.uint8]

JPEG = b"\xff\xd8\xff"  # what every JPEG begins with
MAX_PIXELS = 64_000_000  # more than cameras have, but for a few; 256 MB decoded, and a bomb claims far more
JPEG_EXTENSIONS = (".jpg", ".jpeg")
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: marker, length, precision, height, width, channels
JPEG_SCAN = 0xDA
JPEG_MODES = {1: "L", 3: "RGB"}
SAME = {"MPO": "JPEG", "JPEG2000": "JPEG", "DIB": "BMP"}  # kinds that commonly go by the other's ending


@dataclass(frozen=True)
class Decoded:
    """A picture of a file.

    Attributes:
        name: the file's.
        pixels: the bytes of uint8 (size, size, 3), RGB.
        digest: SHA-256 of them.
        mode: Pillow's name of the original kind of pixels.
        original: the original size, like '640x480'.
        note: what is odd about the file, or nothing.
    """

    name: str
    pixels: bytes
    digest: bytes
    mode: str
    original: str
    note: str


@dataclass(frozen=True)
class Rejected:
    """A file that gives no picture, and why."""

    name: str
    reason: str


def decode_plain_jpeg(entry: Entry, size: int) -> Decoded | None:
    """Return the image if it is a plain JPEG of size x size, otherwise None: Pillow decodes it or gives the reason."""
    if not entry.name.lower().endswith(JPEG_EXTENSIONS):
        return None
    try:
        data = entry.read()
        mode = _plain_mode(data, size)
        if mode is None:
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB").tobytes()
    except (DecodeError, ValueError):
        return None  # Pillow gives a better reason
    return Decoded(entry.name, pixels, hashlib.sha256(pixels).digest(), mode, f"{size}x{size}", note="")


def _plain_mode(data: bytes, size: int) -> str | None:
    """Return 'L' or 'RGB' if the JPEG header declares size x size pixels of 8 bits and nothing special, otherwise None.

    Special means EXIF, a second image, or colours other than grey and YCbCr.
    """
    offset = 2
    while data.startswith(JPEG) and offset + 10 <= len(data) and data[offset] == 0xFF:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4], "big")
        if marker in JPEG_FRAMES:
            height, width = (int.from_bytes(data[offset + at : offset + at + 2], "big") for at in (5, 7))
            fits = data[offset + 4] == 8 and (height, width) == (size, size)
            return JPEG_MODES.get(data[offset + 9]) if fits else None
        if 0xE1 <= marker <= 0xEF or marker == JPEG_SCAN:  # Pillow interprets EXIF, MPF and Adobe segments
            return None
        offset += 2 + length
    return None


def decode_all(entries: Sequence[Entry], size: int) -> list[Decoded | Rejected]:
    """Reads and decodes files one after the other: the work of one process at a time."""
    with _quiet():
        return [_decode_entry(entry, size) for entry in entries]


def decode(data: bytes, size: int) -> Pixels:
    """The picture in the bytes of a file: uint8 (size, size, 3), RGB.

    EXIF orientation is honoured; palette, grey, CMYK, 16-bit and transparent pictures become RGB, transparency
    over white; another size is centre-cropped to a square and resized with antialiasing. Of an animation it is
    the first frame.

    Raises:
        Unreadable: says why there is no picture.
    """
    with _quiet(), _opened(data) as picture:
        return np.asarray(_rgb(picture, size))


def fit(picture: Image.Image, size: int) -> Pixels:
    """The same of a picture that Pillow has opened, which stays as it is; but a camera's JPEG is decoded whole.

    Raises:
        Unreadable: says why it can't be used.
    """
    with _quiet():
        try:
            copy = picture.copy()
        except Exception as error:
            raise DecodeError(_reason(error)) from error
        return np.asarray(_rgb(copy, size))


def _decode_entry(entry: Entry, size: int) -> Decoded | Rejected:
    try:
        with _opened(entry.read()) as picture:
            mode, original = picture.mode, f"{picture.width}x{picture.height}"
            pixels = _rgb(picture, size).tobytes()
            note = _note(entry.name, picture)
    except DecodeError as error:
        return Rejected(entry.name, str(error))
    return Decoded(entry.name, pixels, hashlib.sha256(pixels).digest(), mode, original, note)


def _opened(data: bytes) -> Image.Image:
    """The picture in `data`, of which no more than the header has been read."""
    if not data:
        raise DecodeError("the file is empty")
    try:
        # With a hint Pillow doesn't ask eight other formats first, and opens a small JPEG in half the time.
        picture = Image.open(io.BytesIO(data), formats=("JPEG",) if data.startswith(JPEG) else None)
    except UnidentifiedImageError as error:
        raise DecodeError("it is no picture of a known format") from error
    except Exception as error:
        raise DecodeError(_reason(error)) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise DecodeError(
            f"it has {picture.width}x{picture.height} pixels, more than the {MAX_PIXELS:,} that are decoded"
        )
    return picture


def _rgb(picture: Image.Image, size: int) -> Image.Image:
    """The picture upright, as RGB of size x size."""
    try:
        if min(picture.size) > 4 * size:
            picture.draft(None, (4 * size, 4 * size))  # a JPEG of a camera decodes 8 times as fast at an eighth
        rgb = _to_rgb(ImageOps.exif_transpose(picture) if picture.getexif() else picture)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(_reason(error)) from error
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS)
    return rgb


def _to_rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: deep grey keeps its upper 8 bits, transparency shows white."""
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips at 255, so that nearly every 16-bit picture would be white.
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise DecodeError("its pixels are floating-point numbers of no known range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _note(name: str, picture: Image.Image) -> str:
    """What a person would want to know of a picture that is read all the same."""
    notes = [note for note in [odd_ending(name, str(picture.format))] if note]
    if _is_animation(picture):
        notes.append("it is an animation, of which the first frame is used")
    return "; ".join(notes)


def odd_ending(name: str, kind: str) -> str:
    """What is to be said of a file of Pillow's format `kind` that is called `name`: nothing, mostly."""
    ending = "." + name.rpartition(".")[2].lower()
    meant = EXTENSIONS.get(ending, kind)
    return "" if SAME.get(kind, kind) == SAME.get(meant, meant) else f"it is a {kind}, though its name ends in {ending}"


def _is_animation(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False)) and picture.format != "MPO"
    except Exception:  # noqa: BLE001 - looking for a second frame runs into what is broken behind the first
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: its limit of pixels is not ours, and what it thinks of odd metadata is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    return f"it can't be decoded: {(str(error) or type(error).__name__).splitlines()[0]}"
