"""Convert an opened image of any mode to upright pixels of a fixed size, in sRGB on white.

littlecms converts by relative colorimetric intent with black point compensation, as photo editors do: colours that sRGB
has stay exact, and black stays black. The perceptual intent would change colours that sRGB has; for profiles of cameras
and screens, which have no tables, both are the same.
"""

import io
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, GifImagePlugin, Image, ImageCms, ImageOps

from catae.errors import DecodeError

STRIP = 2**20  # pixels that are converted at once; of a large image they take 1/60 of its memory
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of every PNG
BAD_EXIF = "its EXIF is damaged and ignored"
EXIF_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
BLACK_POINT = ImageCms.Flags.BLACKPOINTCOMPENSATION
EXACT = ImageCms.Flags.NOOPTIMIZE  # grey would be interpolated between 33 values, up to 10 levels off
MAX_PROFILE = 8 * 2**20  # bytes; profiles of printers have 1 to 3 MB
PROFILE_CACHE = 16  # transforms; a data set has few profiles, and each takes up to 9 MB
PROFILE_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # colour space of a profile, and Pillow's mode
GREY = ("1", "L", "LA", "La")
UNPREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

Primaries = tuple[float, ...]  # x and y of white, red, green and blue
D65 = (0.3127, 0.329)
REC709: Primaries = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# https://www.itu.int/rec/T-REC-H.273: the numbers of PNG's cICP chunk and of AVIF's nclx box; 2 is "unspecified"
CICP_PRIMARIES: dict[int, Primaries] = {
    1: REC709,
    2: REC709,
    9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
SRGB_GAMMA = 0.0  # stands for the curve of sRGB, which is no power
# Browsers show the curves of television, 1, 6, 14 and 15, like that of sRGB.
CICP_GAMMAS = dict.fromkeys((1, 2, 6, 13, 14, 15), SRGB_GAMMA) | {4: 2.2, 5: 2.8, 8: 1.0}
GAMMA_TOLERANCE = 0.05  # as in libpng: encoders write 1/2.2 when they mean sRGB
GAMMAS = (0.1, 10.0)  # of sensible files

D50 = (0.9642, 1.0, 0.8249)  # white of the profile connection space
# http://www.brucelindbloom.com/Eqn_ChromAdapt.html
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

DEPTHS = (8, 10, 12, 14)  # bits that grey of 16 bits may have if the file does not state it
WHITE = 65535  # of 16 bits
SCALED_BY_PILLOW = ("PPM", "JPEG2000")  # whatever their depth
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_MIN, SAMPLE_MAX = 258, 262, 340, 341  # TIFF tags

# Entries of `Image.info` that Pillow does not set: the bytes of the chunks of a PNG, or what they would be.
CICP, SIGNIFICANT_BITS, HEADER = "cICP", "sBIT", "IHDR"


def to_square(image: Image.Image, size: int) -> tuple[Image.Image, list[str]]:
    """Convert an opened image to upright sRGB of size x size, without changing it, and return notes on its metadata.

    Raises:
        DecodeError: the pixels have no known range.
        Exception: of any kind, from Pillow, if the data is damaged.
    """
    frame = None
    if isinstance(image, GifImagePlugin.GifImageFile) and image.tile and image.tell() == 0:
        frame = image.tile[0].extents
    damaged = _load(image)
    if frame and frame != (0, 0, *image.size):
        image = _clear_outside(image, frame)
    orientation, note = _orientation(image.info)
    found = conversion(image)
    rgb = _square(image, size, found.to_rgb)
    if orientation != 1:
        rgb = rgb.copy()  # it may be the image itself
        rgb.info = {}  # Pillow would write the rest of EXIF anew, and fail on odd values
        rgb.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(rgb, in_place=True)
    return rgb, [*filter(None, (damaged or note,)), *found.notes]


def _load(image: Image.Image) -> str:
    """Decode the pixels, and return a note if a TIFF has damaged EXIF, at which Pillow would fail.

    Pillow turns a TIFF by the orientation in its XMP, which browsers ignore: hide that.
    """
    xmp, note = image.info.pop("xmp", None), ""
    if image.format == "TIFF":
        exif = image.getexif()
        for directory in EXIF_DIRECTORIES:
            try:
                exif.get_ifd(directory)
            except Exception:  # noqa: BLE001 - on damaged data Pillow raises any exception
                exif.pop(directory, None)
                note = BAD_EXIF
    try:
        image.load()
    finally:
        if xmp is not None:
            image.info["xmp"] = xmp
    return note


def _clear_outside(image: Image.Image, frame: tuple[int, int, int, int]) -> Image.Image:
    """Make a GIF transparent outside its first frame. Pillow shows the first colour of the palette there."""
    clear = Image.new("RGBA", image.size)
    clear.paste(image.convert("RGBA").crop(frame), frame)
    return clear


def _orientation(info: Mapping[Any, Any]) -> tuple[int, str]:
    """Return the EXIF orientation, 1 to 8, and a note if EXIF is damaged. Pillow's own search takes XMP's as well."""
    exif = Image.Exif()
    try:
        raw = info.get("exif", b"")
        if not raw and "Raw profile type exif" in info:  # in the text of a PNG: three lines, then hexadecimal
            raw = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
        exif.load(raw)
        return int(exif.get(ExifTags.Base.Orientation, 1)), ""
    except Exception:  # noqa: BLE001 - on damaged data Pillow raises any exception
        return 1, BAD_EXIF


def _square(image: Image.Image, size: int, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert the central square and resize it to size x size."""
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    factor, x, y = 1, 0, 0
    if image.width * image.height <= STRIP:
        rgb = to_rgb(image)
    else:
        factor, x, y = max(1, side // (4 * size)), math.floor(left), math.floor(top)
        rgb = _reduce(image, (x, y, math.ceil(left + side), math.ceil(top + side)), factor, to_rgb)
    if image.size == (size, size):
        return rgb
    box = ((left - x) / factor, (top - y) / factor, (left - x + side) / factor, (top - y + side) / factor)
    return rgb.resize((size, size), Image.Resampling.LANCZOS, box=box)


def _reduce(
    image: Image.Image, box: tuple[int, int, int, int], factor: int, to_rgb: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Convert the pixels in `box` in strips, to need little more memory than the image, and average blocks of them."""
    x0, y0, x1, y1 = box
    reduced = Image.new("RGB", (math.ceil((x1 - x0) / factor), math.ceil((y1 - y0) / factor)))
    rows = max(1, STRIP // ((x1 - x0) * factor)) * factor
    for y in range(y0, y1, rows):
        strip = to_rgb(image.crop((x0, y, x1, min(y + rows, y1))))
        reduced.paste(strip.reduce(factor), (0, (y - y0) // factor))
    return reduced


@dataclass(frozen=True)
class Conversion:
    """How to convert the pixels of one image, or of a part of it, to RGB.

    Attributes:
        notes: what is unusual about the colours.
        transform: converts to sRGB; None if there is nothing to convert.
        source: the mode that `transform` takes.
        levels: for grey of more than 8 bits or with a profile, the values that are black and white; otherwise None.
    """

    notes: tuple[str, ...] = ()
    transform: ImageCms.ImageCmsTransform | None = None
    source: str = ""
    levels: tuple[float, float] | None = None

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """Convert to sRGB, transparent pixels on white. Colours are converted before they mix with white."""
        if image.mode in UNPREMULTIPLIED:
            image = image.convert(UNPREMULTIPLIED[image.mode])
        if self.levels is None:
            rgb = self._apply(image)
        else:
            grey = image if _is_deep(image) else image.convert("L")
            rgb = self._from_levels(np.asarray(grey).astype(np.float32), *self.levels)
        alpha = _alpha(image)
        if alpha is None:
            return rgb
        on_white = Image.new("RGB", rgb.size, "white")
        on_white.paste(rgb, mask=alpha)
        return on_white

    def _apply(self, image: Image.Image) -> Image.Image:
        if self.transform is None:
            return image if image.mode == "RGB" else image.convert("RGB")
        return self.transform.apply(image.convert(self.source))

    def _from_levels(self, values: npt.NDArray[np.float32], black: float, white: float) -> Image.Image:
        """Return the RGB image of grey values, each rounded once: 255 levels of linear light would be too few."""
        grey = ((values - black) * (255 / (white - black))).clip(0, 255)
        if self.transform is None:
            return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
        table = np.asarray(self._apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))[0]
        channels = [np.interp(grey, np.arange(256), table[:, channel]) for channel in range(3)]
        return Image.fromarray(np.rint(np.stack(channels, -1)).astype(np.uint8))


def conversion(image: Image.Image) -> Conversion:
    """Return how to convert a loaded image to sRGB.

    Raises:
        DecodeError: the pixels have no known range.
    """
    levels, levels_note = _levels(image) if _is_deep(image) else (None, "")
    # Pillow itself converts Lab, which needs no profile.
    profile, profile_note = _profile(image.info) if image.mode != "LAB" else (None, "")
    transform, source = None, ""
    if profile is not None:
        mode = "L" if image.mode in GREY or _is_deep(image) else "CMYK" if image.mode == "CMYK" else "RGB"
        transform, source, profile_note = _transform(profile, mode)
        if transform is not None and mode == "L":
            levels = levels or (0, 255)
    notes = (levels_note, profile_note, _depth_note(image))
    return Conversion(tuple(filter(None, notes)), transform, source, levels)


def is_srgb(profile: bytes) -> bool:
    """Return whether converting grey or RGB pixels from `profile` to sRGB changes nothing."""
    return all(_transform(profile, mode) == (None, "", "") for mode in ("L", "RGB"))


def add_metadata(image: Image.Image, data: bytes) -> None:
    """Add to `image.info` what its file, in `data`, states about colours and Pillow does not read."""
    if image.format == "PNG":
        for kind, start, end in png_chunks(data):
            if kind == b"IDAT":
                break
            if kind.decode("latin-1") in (CICP, SIGNIFICANT_BITS, HEADER):
                image.info[kind.decode()] = data[start:end]
        key = image.info.get("transparency")
        if isinstance(key, tuple) and _colour_depth(image) == 16:  # Pillow reads the upper 8 bits, but not of this
            image.info["transparency"] = tuple(value >> 8 for value in key)
    elif image.format == "AVIF" and "icc_profile" not in image.info and (at := data.find(b"colrnclx")) > 0:
        primaries, curve = struct.unpack(">HH", data[at + 8 : at + 12])
        image.info[CICP] = bytes((min(primaries, 255), min(curve, 255), 0, 1))
    elif image.format == "JPEG2000" and (at := data.find(b"colr\x02", 0, data.find(b"jp2c"))) > 0:
        image.info["icc_profile"] = data[at + 7 : at - 4 + int.from_bytes(data[at - 4 : at])]


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each chunk of a PNG, and where its contents start and end."""
    offset = len(PNG)
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        yield kind, offset + 8, offset + 8 + length
        offset += 12 + length


def _colour_depth(image: Image.Image) -> int:
    """Return the bits per channel of colours in a PNG or TIFF; 8 in other formats."""
    if HEADER in image.info:
        return int(image.info[HEADER][8])
    return int(max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))))


def _depth_note(image: Image.Image) -> str:
    """Return a note if channels of 16 bits seem to use fewer: Pillow reads the upper 8 bits only."""
    channels = {"LA": 1, "RGB": 3, "RGBA": 3}.get(image.mode, 0)
    if not channels or _colour_depth(image) != 16:
        return ""
    brightest = np.reshape(image.getextrema(), (-1, 2))[:channels].max()
    return f"pixels of 16 bits, of which the upper 8 are read: up to {brightest} of 255" if brightest < 64 else ""


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return the opacity of each pixel, or None if all are opaque."""
    if not image.has_transparency_data:
        return None
    if not _is_deep(image):
        return image.convert("RGBA").getchannel("A")
    return Image.fromarray(np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8))


def _is_deep(image: Image.Image) -> bool:
    """Return whether an image is grey of more than 8 bits."""
    return image.mode.startswith(("I", "F"))


@lru_cache(PROFILE_CACHE)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str, str]:
    """Return the transform of L, RGB or CMYK pixels to sRGB, the mode that it takes, and why there is none.

    A grey image may have an RGB profile: editors convert to grey and keep the profile.
    """
    if len(profile) > MAX_PROFILE:
        return None, "", f"its colour profile of {len(profile):,} bytes is too large; read as sRGB"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        source = PROFILE_MODES.get(space, "")
        if source != mode and (mode, source) != ("L", "RGB"):
            kind = space if source else "other"
            return None, "", f"its colour profile is for {kind} pixels, which it does not have; the profile is ignored"
        flags = BLACK_POINT | (EXACT if source == "L" else ImageCms.Flags.NONE)
        transform = ImageCms.ImageCmsTransform(opened, SRGB, source, "RGB", INTENT, flags=flags)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None, "", "its colour profile is damaged; read as sRGB"
    if source != "CMYK":
        sample = Image.merge("RGB", [Image.fromarray(channel) for channel in _lattice()]).convert(source)
        moved = np.asarray(transform.apply(sample), np.int16) - np.asarray(sample.convert("RGB"), np.int16)
        if np.abs(moved).max() <= 1:  # the profile is sRGB, with values rounded to 16 bits
            return None, "", ""
    return transform, source, ""


@lru_cache(1)
def _lattice() -> npt.NDArray[np.uint8]:
    """Return the three channels of 18 x 18 x 18 colours, with all 256 greys."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    greys = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    colours = np.stack(np.meshgrid(steps, steps, steps)).reshape(3, -1)
    return np.concatenate([colours, greys], 1)[:, None]


def _profile(info: Mapping[Any, Any]) -> tuple[bytes | None, str]:
    """Return the profile of an image, and a note if its colours cannot be known. None stands for sRGB.

    https://www.w3.org/TR/png-3/#cICP-chunk has the order.
    """
    if len(info.get(CICP, b"")) == 4:
        primaries, curve = info[CICP][:2]
        if primaries in CICP_PRIMARIES and curve in CICP_GAMMAS:
            return _matrix_profile(CICP_PRIMARIES[primaries], CICP_GAMMAS[curve]), ""
        return None, f"colours of a kind that is not supported (cICP {primaries}, {curve}); read as sRGB"
    if "icc_profile" in info:
        whole = isinstance(info["icc_profile"], bytes)  # Pillow sets None if a part is missing
        return (info["icc_profile"], "") if whole else (None, "its colour profile is damaged; read as sRGB")
    if "srgb" in info or not {"gamma", "chromaticity"} & info.keys():
        return None, ""
    encoded = info.get("gamma", 1 / 2.2)
    if not GAMMAS[0] < encoded < GAMMAS[1]:
        return None, f"its gamma of {encoded:g} makes no sense; read as sRGB"
    gamma = SRGB_GAMMA if abs(encoded * 2.2 - 1) < GAMMA_TOLERANCE else 1 / encoded
    try:
        return _matrix_profile(tuple(info.get("chromaticity", REC709)), gamma), ""
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return None, "its chromaticities make no sense; read as sRGB"


@lru_cache(PROFILE_CACHE)
def _matrix_profile(primaries: Primaries, gamma: float) -> bytes | None:
    """Return the ICC profile of RGB with the given primaries and gamma; None for sRGB.

    https://www.color.org/specification/ICC1v43_2010-12.pdf has the format.
    """
    if gamma == SRGB_GAMMA and np.allclose(primaries, REC709, atol=1e-3):
        return None
    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(primaries, (4, 2)).tolist())
    columns = np.transpose(colours)
    adaptation = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD
    to_xyz = adaptation @ columns * np.linalg.solve(columns, white)
    kind, parameters = (3, SRGB_CURVE) if gamma == SRGB_GAMMA else (0, (gamma,))
    curve = b"para" + struct.pack(">4xH2x", kind) + _fixed(*parameters)
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)}
    for name, column in zip((b"r", b"g", b"b"), to_xyz.T.tolist(), strict=True):
        tags |= {name + b"XYZ": b"XYZ " + bytes(4) + _fixed(*column), name + b"TRC": curve}
    index, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        index += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(body), len(value))
        body += value
    header = struct.pack(">I4xI4s4s4s12x4s28x", 128 + len(index + body), 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return header + _fixed(*D50) + bytes(48) + index + body


def _fixed(*values: float) -> bytes:
    """Return numbers as ICC's s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _levels(image: Image.Image) -> tuple[tuple[float, float], str]:
    """Return the values that are black and white in grey of more than 8 bits, and a note if the file does not say."""
    values = np.asarray(image)
    darkest, brightest = float(values.min()), float(values.max())
    if not np.isfinite([darkest, brightest]).all():
        raise DecodeError("some of its pixels are not numbers")
    tags = getattr(image, "tag_v2", {})
    note = ""
    levels = _stated_levels(image, tags, values)
    if levels is None or brightest > max(levels):
        if image.mode.startswith("F"):
            raise DecodeError("floating-point pixels without a known range; convert them to 8 or 16 bits")
        depths = [2**depth - 1 for depth in DEPTHS if brightest < 2**depth]
        levels = min(darkest, 0), depths[0] if depths else max(WHITE, brightest)
        if 0 < brightest <= WHITE / 2 or brightest > WHITE or darkest < 0:
            note = f"grey values from {darkest:,.0f} to {brightest:,.0f}; {levels[1]:,.0f} is taken as white"
    return (levels[::-1] if tags.get(PHOTOMETRIC) == 0 else levels), note


def _stated_levels(image: Image.Image, tags: Mapping[int, Any], values: npt.NDArray[Any]) -> tuple[float, float] | None:
    """Return the values that are black and white according to the file, or None."""
    if image.format in SCALED_BY_PILLOW:
        return 0, WHITE
    if SAMPLE_MAX in tags:
        try:
            low, high = float(np.min(tags.get(SAMPLE_MIN, 0))), float(np.max(tags[SAMPLE_MAX]))
        except (TypeError, ValueError):  # text
            return None
        return (low, high) if -math.inf < low < high < math.inf else None
    depth = np.max(tags.get(BITS_PER_SAMPLE, 16))
    if depth < 16:
        return 0, 2.0**depth - 1
    unused = 16 - int.from_bytes(image.info.get(SIGNIFICANT_BITS, b"\x10")[:1])
    if not 0 < unused < 16:
        return None
    # The specification wants values to be scaled up to 16 bits, but many encoders store them as they are.
    stored_as_is = bool(values.max() <= WHITE >> unused and (values % 2**unused).any())
    return 0, WHITE >> unused if stored_as_is else WHITE
