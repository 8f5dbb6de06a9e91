"""Plain JPEGs of the right size, decoded by threads of this process.

simplejpeg lets go of Python's lock, where Pillow holds it: two threads of it decode small pictures three times as fast
as two processes with Pillow, which have to be started and talked to. Both use libjpeg-turbo, and give the same pixels;
a test compares them. Whatever is not plain is left to Pillow.
"""

import hashlib

import simplejpeg

from catae.data.decode import JPEG, Decoded
from catae.data.sources import Entry
from catae.errors import DecodeError

NAMES = (".jpg", ".jpeg")
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: the marker's length, precision, height, width, channels
SCAN = 0xDA
MODES = {1: "L", 3: "RGB"}


def decode(entry: Entry, size: int) -> Decoded | None:
    """The picture, if it is a plain JPEG of size x size; None otherwise, and where anything is odd."""
    if not entry.name.lower().endswith(NAMES):
        return None
    try:
        data = entry.read()
        mode = plain_mode(data, size)
        if mode is None:
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB").tobytes()
    except (DecodeError, ValueError):
        return None  # Pillow's reason is the better one
    return Decoded(entry.name, pixels, hashlib.sha256(pixels).digest(), mode, f"{size}x{size}", note="")


def plain_mode(data: bytes, size: int) -> str | None:
    """'L' or 'RGB', if the header says size x size pixels of 8 bits and nothing special: no EXIF, no second picture, no
    colours but YCbCr. None otherwise.
    """
    place = 2
    while data.startswith(JPEG) and place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in FRAMES:
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            fits = data[place + 4] == 8 and (height, width) == (size, size)
            return MODES.get(data[place + 9]) if fits else None
        if 0xE1 <= marker <= 0xEF or marker == SCAN:  # what EXIF, MPF and Adobe say is Pillow's to read
            return None
        place += 2 + length
    return None
