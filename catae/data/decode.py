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

JPEG = b"\xff\xd8\xff"  # the first bytes of every JPEG
MAX_PIXELS = 64_000_000  # more than nearly all cameras, and 256 MB decoded; decompression bombs declare far more
JPEG_EXTENSIONS = (".jpg", ".jpeg")
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: marker, length, precision, height, width, channels
JPEG_SCAN = 0xDA
JPEG_MODES = {1: "L", 3: "RGB"}
EQUIVALENT = {"MPO": "JPEG", "JPEG2000": "JPEG", "DIB": "BMP"}  # formats that share a file extension


@dataclass(frozen=True)
class Decoded:
    """The image decoded from a file.

    Attributes:
        name: name of the file.
        pixels: the bytes of uint8 (size, size, 3), RGB.
        digest: SHA-256 of `pixels`.
        mode: Pillow's mode of the original.
        original: size of the original, such as '640x480'.
        note: what is unusual about the file, or an empty string.
    """

    name: str
    pixels: bytes
    digest: bytes
    mode: str
    original: str
    note: str


@dataclass(frozen=True)
class Rejected:
    """A file that yields no image, and the reason."""

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
    """Read and decode files one after the other, in a worker process or in this one."""
    with _quiet():
        return [_decode_entry(entry, size) for entry in entries]


def decode(data: bytes, size: int) -> Pixels:
    """Decode the bytes of a file to uint8 (size, size, 3), RGB.

    Apply the EXIF orientation. Convert palette, grey, CMYK, 16-bit and transparent images to RGB, transparent ones on
    white. Crop other sizes to the central square and resize with antialiasing. Use the first frame of an animation.

    Raises:
        DecodeError: the bytes yield no image.
    """
    with _quiet(), _open(data) as image:
        return np.asarray(_rgb(image, size))


def to_pixels(image: Image.Image, size: int) -> Pixels:
    """Convert a Pillow image like `decode`, without changing it. A large JPEG is decoded at full size, which is slower.

    Raises:
        DecodeError: the image cannot be converted.
    """
    with _quiet():
        try:
            copy = image.copy()
        except Exception as error:
            raise DecodeError(_reason(error)) from error
        return np.asarray(_rgb(copy, size))


def _decode_entry(entry: Entry, size: int) -> Decoded | Rejected:
    try:
        with _open(entry.read()) as image:
            mode, original = image.mode, f"{image.width}x{image.height}"
            pixels = _rgb(image, size).tobytes()
            note = _note(entry.name, image)
    except DecodeError as error:
        return Rejected(entry.name, str(error))
    return Decoded(entry.name, pixels, hashlib.sha256(pixels).digest(), mode, original, note)


def _open(data: bytes) -> Image.Image:
    """Open the image in `data`, reading only its header."""
    if not data:
        raise DecodeError("the file is empty")
    try:
        # The hint saves trying eight other formats first and halves the time to open a small JPEG.
        image = Image.open(io.BytesIO(data), formats=("JPEG",) if data.startswith(JPEG) else None)
    except UnidentifiedImageError as error:
        raise DecodeError("not an image in a known format") from error
    except Exception as error:
        raise DecodeError(_reason(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(f"{image.width}x{image.height} pixels exceed the limit of {MAX_PIXELS:,}")
    return image


def _rgb(image: Image.Image, size: int) -> Image.Image:
    """Convert to an upright RGB image of size x size."""
    try:
        if min(image.size) > 4 * size:
            image.draft(None, (4 * size, 4 * size))  # decodes a camera's JPEG 8 times as fast, at an eighth of its size
        rgb = _to_rgb(ImageOps.exif_transpose(image) if image.getexif() else image)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(_reason(error)) from error
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS)
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: 16-bit grey keeps its upper 8 bits, transparency becomes white."""
    if image.mode.startswith("I"):
        # Pillow clips at 255 when it converts, which turns nearly every 16-bit image white.
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DecodeError("floating-point pixels without a known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _note(name: str, image: Image.Image) -> str:
    """Return what is unusual about an image that is read anyway."""
    notes = [note for note in [wrong_extension(name, str(image.format))] if note]
    if _is_animation(image):
        notes.append("an animation; its first frame is used")
    return "; ".join(notes)


def wrong_extension(name: str, kind: str) -> str:
    """Return a note if a file in Pillow's format `kind` has another format's extension, or an empty string."""
    extension = "." + name.rpartition(".")[2].lower()
    expected = EXTENSIONS.get(extension, kind)
    if EQUIVALENT.get(kind, kind) == EQUIVALENT.get(expected, expected):
        return ""
    return f"a {kind} with the extension {extension}"


def _is_animation(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except Exception:  # noqa: BLE001 - the data after the first frame may be damaged in any way
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings: `MAX_PIXELS` replaces its own limit, and odd metadata does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    return f"cannot be decoded: {(str(error) or type(error).__name__).splitlines()[0]}"
