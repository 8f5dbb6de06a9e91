"""Decode the bytes of an image file to RGB pixels of a fixed size.

A plain JPEG of the right size is decoded by simplejpeg in threads; anything else by Pillow in worker processes.
simplejpeg releases the GIL: on small images two threads are three times as fast as two processes with Pillow. Both use
libjpeg-turbo and return the same pixels, which a test compares. Keep imports few: every worker process pays for them.
"""

import hashlib
import io
import os
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from catae.data import convert
from catae.data.sources import EXTENSIONS, MAX_PIXELS, Entry
from catae.errors import DecodeError

Pixels = npt.NDArray[np.uint8]

JPEG = b"\xff\xd8\xff"  # the first bytes of every JPEG
JPEG_EXTENSIONS = (".jpg", ".jpeg")
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: marker, length, precision, height, width, channels
JPEG_SCAN, JPEG_APP1, JPEG_ICC, JPEG_ADOBE, JPEG_LAST_APP, JPEG_COMMENT = 0xDA, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
JPEG_END = b"\xff\xd9"
JPEG_MODES = {1: "L", 3: "RGB"}
WHOLE_PROFILE = b"ICC_PROFILE\0\1\1"  # starts a segment with the first of one part
EXIF_HEADER = b"Exif\0\0"
PNG_COLOURS = (b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"sBIT", b"tRNS", b"eXIf")  # and the orientation
WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
MAX_PRINTED = 200  # characters
MAX_ENLARGED, MIN_AREA = 4, 0.25  # beyond these, a file is hardly the image that the user means
FLOATING_POINT = 3  # in a TIFF's SampleFormat
SEVERAL = {
    "TIFF": "a file of several pages; the first is used",
    "DCX": "a file of several pages; the first is used",
    "PSD": "a file of several layers; the merged image is used",
}
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

    Special means EXIF, a second image, a colour profile other than sRGB, or colours other than grey and YCbCr.
    """
    offset, profiles = 2, 0
    while data.startswith(JPEG) and offset + 10 <= len(data) and data[offset] == 0xFF:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4], "big")
        segment = data[offset + 4 : offset + 2 + length]
        if marker in JPEG_FRAMES:
            height, width = (int.from_bytes(data[offset + at : offset + at + 2], "big") for at in (5, 7))
            fits = data[offset + 4] == 8 and (height, width) == (size, size)
            return JPEG_MODES.get(data[offset + 9]) if fits else None
        if marker == JPEG_ICC and not profiles and segment.startswith(WHOLE_PROFILE):
            if not convert.is_srgb(segment[len(WHOLE_PROFILE) :]):
                return None
            profiles += 1
        elif JPEG_APP1 <= marker <= JPEG_LAST_APP or marker == JPEG_SCAN:  # Pillow interprets EXIF, MPF and Adobe
            return None
        offset += 2 + length
    return None


def decode_all(entries: Sequence[Entry], size: int) -> list[Decoded | Rejected]:
    """Read and decode files one after the other."""
    with _quiet():
        return [_decode_entry(entry, size) for entry in entries]


def decode_in_worker(entries: Sequence[Entry], size: int) -> list[Decoded | Rejected]:
    """Read and decode files like `decode_all`, and add what C libraries print about a file to its note or reason.

    libtiff explains damage on standard error only. Capturing it redirects file descriptor 2 of the whole process. That
    is safe in a worker process, which does nothing else, but not next to other threads that write to it.
    """
    with tempfile.TemporaryFile() as printed, _quiet():
        return [_captured(entry, size, printed) for entry in entries]


def decode(data: bytes, size: int) -> Pixels:
    """Decode the bytes of a file to uint8 (size, size, 3), sRGB.

    Apply the EXIF orientation and the colour profile. Convert palette, grey, CMYK, 16-bit and transparent images to
    RGB, transparent ones on white. Crop other sizes to the central square and resize with antialiasing. Use the first
    frame of an animation. Ignore damaged metadata.

    Raises:
        DecodeError: the bytes yield no image.
    """
    with _quiet():
        return np.asarray(_read(data, size).rgb)


def to_pixels(image: Image.Image, size: int) -> Pixels:
    """Convert a Pillow image like `decode`, without changing it.

    A large JPEG is decoded at full size, which is slower. What Pillow does not read, such as PNG's cICP, is unknown.

    Raises:
        DecodeError: the image cannot be converted.
    """
    with _quiet():
        try:
            return np.asarray(_to_rgb(image, size)[0])
        except DecodeError as error:
            file = getattr(image, "fp", None)
            if file is None or file.closed or image.tell() != 0:
                raise
            reason = str(error)
        file.seek(0)
        try:
            return np.asarray(_read(file.read(), size).rgb)  # whatever can be read from its file
        except DecodeError:
            raise DecodeError(reason) from None


@dataclass(frozen=True)
class _Read:
    """An RGB image of the right size, and what it was before."""

    rgb: Image.Image
    kind: str
    mode: str
    original: str
    notes: tuple[str, ...]


def _decode_entry(entry: Entry, size: int) -> Decoded | Rejected:
    try:
        found = _read(entry.read(), size)
    except DecodeError as error:
        return Rejected(entry.name, str(error))
    pixels = found.rgb.tobytes()
    notes = [note for note in (wrong_extension(entry.name, found.kind), *found.notes) if note]
    return Decoded(entry.name, pixels, hashlib.sha256(pixels).digest(), found.mode, found.original, "; ".join(notes))


def _read(data: bytes, size: int) -> _Read:
    """Decode the bytes of a file; if that fails, decode them without damaged metadata."""
    try:
        return _read_intact(data, size)
    except DecodeError as error:
        reason = str(error)
    for repaired, note in _repairs(data):
        try:
            found = _read_intact(repaired, size)
        except DecodeError as error:
            reason = str(error)  # not about metadata, like the first reason may be
        else:
            return replace(found, notes=(note, *found.notes))
    raise DecodeError(reason)


def _read_intact(data: bytes, size: int) -> _Read:
    with _open(data) as image:
        mode, (width, height) = image.mode, image.size
        if min(image.size) > 4 * size:
            image.draft(None, (4 * size, 4 * size))  # decodes a camera's JPEG 8 times as fast, at an eighth of its size
        rgb, notes = _to_rgb(image, size)
        notes += [note for note in (_several(image), _fit_note(width, height, size)) if note]
        return _Read(rgb, str(image.format), mode, f"{width}x{height}", tuple(notes))


def _open(data: bytes) -> Image.Image:
    """Open the image in `data`, reading only its header."""
    if not data:
        raise DecodeError("the file is empty")
    try:
        # The hint saves trying eight other formats first and halves the time to open a small JPEG.
        image = Image.open(io.BytesIO(data), formats=("JPEG",) if data.startswith(JPEG) else None)
        convert.add_metadata(image, data)
    except UnidentifiedImageError as error:
        raise DecodeError(_why_unidentified(data)) from error
    except Exception as error:
        raise DecodeError(f"cannot be decoded: {_words(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(f"{image.width}x{image.height} pixels exceed the limit of {MAX_PIXELS:,}")
    return image


def _to_rgb(image: Image.Image, size: int) -> tuple[Image.Image, list[str]]:
    """Convert to an upright sRGB image of size x size, and return what is unusual about its metadata."""
    try:
        return convert.to_square(image, size)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"cannot be decoded: {_words(error)}") from error


def _fit_note(width: int, height: int, size: int) -> str:
    """Return a note if an image is enlarged or cropped so much that little of it is what the file shows."""
    short, long = sorted((width, height))
    notes = []
    if short / long < MIN_AREA:
        notes.append(f"only its central square is used, {100 * short / long:.2g} % of its area")
    if size > MAX_ENLARGED * short:
        notes.append(f"enlarged {size / short:.3g} times")
    return "; ".join(notes)


def wrong_extension(name: str, kind: str) -> str:
    """Return a note if a file in Pillow's format `kind` has another format's extension, or an empty string."""
    extension = "." + name.rpartition(".")[2].lower()
    expected = EXTENSIONS.get(extension, kind)
    if EQUIVALENT.get(kind, kind) == EQUIVALENT.get(expected, expected):
        return ""
    return f"a {kind} with the extension {extension}"


def _several(image: Image.Image) -> str:
    """Return a note if a file has more than one image."""
    try:
        several = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except Exception:  # noqa: BLE001 - the data after the first frame may be damaged in any way
        return ""
    return SEVERAL.get(str(image.format), "an animation; its first frame is used") if several else ""


def _repairs(data: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield the file without damaged metadata, with less of it each time, and a note. Pixels stay as they are."""
    if data.startswith(JPEG) and not data.endswith(JPEG_END):
        ended = data.removesuffix(b"\xff") + JPEG_END
        with suppress(ValueError):
            simplejpeg.decode_jpeg(ended, "RGB", min_factor=8, strict=True)  # fails if pixels are missing
            yield ended, "the end of the file is missing, but no pixels are"
            data = ended
    note = "its metadata is damaged; the damaged part is ignored"
    if data.startswith(JPEG):
        yield from ((_jpeg_with(data, kept), note) for kept in ((WHOLE_PROFILE[:11], EXIF_HEADER), ()))
    elif data.startswith(convert.PNG):
        yield from ((_png_with(data, kept), note) for kept in (PNG_COLOURS, ()))
    elif data.startswith(b"RIFF"):
        yield from ((_webp_with(data, kept), note) for kept in ((b"ICCP", b"EXIF"), (b"ICCP",), ()))
    elif data[4:8] == b"ftyp":
        yield re.sub(rb"(infe.{8})Exif", rb"\1free", data, flags=re.DOTALL), note  # names the item as one to ignore


def _jpeg_with(data: bytes, kept: tuple[bytes, ...]) -> bytes:
    """Return a JPEG with only those of its application segments that start with one of `kept`, or belong to Adobe."""
    offset, parts = 2, [data[:2]]
    while offset + 4 <= len(data) and data[offset] == 0xFF and data[offset + 1] != JPEG_SCAN:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4], "big")
        segment = data[offset : offset + 2 + length]
        special = 0xE0 <= marker <= JPEG_LAST_APP or marker == JPEG_COMMENT
        if not special or segment[4:].startswith(kept) or (marker == JPEG_ADOBE and length >= 14):
            parts.append(segment)
        offset += 2 + length
    return b"".join([*parts, data[offset:]])


def _png_with(data: bytes, kept: tuple[bytes, ...]) -> bytes:
    """Return a PNG with its critical chunks, and those of `kept` whose checksum is right."""
    parts = [convert.PNG]
    for kind, start, end in convert.png_chunks(data):
        is_critical = kind[:1].isupper()
        if is_critical or (
            kind in kept and data[end : end + 4] == struct.pack(">I", zlib.crc32(data[start - 4 : end]))
        ):
            parts.append(data[start - 8 : end + 4])
    return b"".join(parts)


def _webp_with(data: bytes, kept: tuple[bytes, ...]) -> bytes:
    """Return a WebP with its pixels and those of its chunks in `kept`."""
    offset, body = 12, b"WEBP"
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, offset)
        chunk = bytearray(data[offset : offset + 8 + length + length % 2])
        if kind == b"VP8X" and len(chunk) > 8:
            chunk[8] &= 0b010010 | (0b100000 if b"ICCP" in kept else 0) | (0b001000 if b"EXIF" in kept else 0)
        if kind in WEBP_PIXELS or (kind in kept and len(chunk) >= 8 + length):
            body += chunk
        offset += 8 + length + length % 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _why_unidentified(data: bytes) -> str:
    """Return why Pillow finds no image, by asking those of its formats whose signature the file has."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS and b"avif" not in data[8:64]:
        return "an HEIC file, which Pillow cannot read; convert it to JPEG or PNG"
    if data.startswith(b"\xff\x0a") or data[4:8] == b"JXL ":
        return "a JPEG XL file, which Pillow cannot read; convert it to JPEG or PNG"
    if data.lstrip()[:1] == b"<":
        return "text such as HTML or SVG, not pixels"
    for kind in Image.ID:
        factory, accepts = Image.OPEN[kind]
        accepted = accepts(data[:16].ljust(16, b"\0")) if accepts else False
        if isinstance(accepted, str):
            return accepted
        if accepted:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:  # noqa: BLE001 - on damaged data Pillow raises any exception
                return f"not a readable {kind}: {_words(error)}"
    return "not an image in a known format"


def _words(error: Exception) -> str:
    """Return what an error of Pillow means, in one line."""
    cause = error if isinstance(error, KeyError) else error.__cause__
    if isinstance(cause, KeyError):
        match cause.args:
            case [(_, colours, (sample_format, *_), _, (bits, *others), _)]:  # of a TIFF
                kind = " floating-point" if sample_format == FLOATING_POINT else ""
                return f"{len(others) + 1} x {bits} bits{kind} per pixel in colours of kind {colours} are not supported"
        return f"its header has the value {cause}, which is not supported"
    if isinstance(error, (IndexError, struct.error)) or isinstance(cause, (IndexError, struct.error)):
        return "the file is damaged or cut off"
    text = (str(error) or type(error).__name__).splitlines()[0]
    return "its compressed data is damaged" if text.startswith("decoder error") else text


def _captured(entry: Entry, size: int, printed: IO[bytes]) -> Decoded | Rejected:
    """Decode a file and add what was printed meanwhile to standard error, of which only the first line is kept."""
    printed.truncate(0)
    stderr = os.dup(2)
    os.dup2(printed.fileno(), 2)
    try:
        result = _decode_entry(entry, size)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    printed.seek(0)
    lines = printed.read().decode(errors="replace").split("\n")
    if not lines[0]:
        return result
    said = f"the decoder reports: {''.join(filter(str.isprintable, lines[0][:MAX_PRINTED]))}"
    if isinstance(result, Rejected):
        return replace(result, reason=f"{result.reason}; {said}")
    return replace(result, note="; ".join(filter(None, (result.note, said))))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings: `MAX_PIXELS` replaces its own limit, and odd metadata does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
