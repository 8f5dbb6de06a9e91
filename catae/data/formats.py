"""Tell images from other files, by name and by the first bytes, and say what would read an unsupported format."""

import mimetypes
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

from PIL import Image

Kind = Literal["image", "unsupported", "other"]

HEAD = 64  # bytes that identify a format
PLUGINS = tuple(name for name in ("pillow_heif", "pillow_jxl") if find_spec(name))  # of the extra `formats`
# Formats that Pillow knows by name, but that hold no image, or none that it can read without further programs.
NOT_IMAGES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF")
ARCHIVES = (".7z", ".rar", ".tar", ".tar.bz2", ".tar.gz", ".tar.xz", ".tbz2", ".tgz", ".txz", ".zip")
UNSUPPORTED = dict.fromkeys(ARCHIVES, "an archive inside the source; use it as a source of its own") | {
    f".{extension}": reason
    for extensions, reason in {
        "heic heics heif heifs hif": "HEIC, which needs the package pillow-heif: pip install 'catae[formats]'",
        "jxl": "JPEG XL, which needs the package pillow-jxl-plugin: pip install 'catae[formats]'",
        "3fr arw cr2 cr3 dng erf kdc mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f": (
            "a raw file of a camera; develop it to JPEG, PNG or TIFF"
        ),
        "ai emf eps ps svg svgz wmf": "a vector image; export it as PNG",
        "kra psb xcf": "a file of an image editor; export it as PNG",
    }.items()
    for extension in extensions.split()
}
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
SNIFFED = ("AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")  # formats with first bytes that no text has
OTHER_TYPES = mimetypes.MimeTypes()  # of Python itself: the system's list would make results depend on the machine

for _plugin in PLUGINS:
    _module = import_module(_plugin)
    if _plugin == "pillow_heif":  # the other registers itself
        _module.register_heif_opener()
EXTENSIONS = {
    extension: kind for extension, kind in Image.registered_extensions().items() if kind not in NOT_IMAGES
}  # of images that can be read, and Pillow's name of the format


def classify(name: str, head: Callable[[], bytes]) -> tuple[Kind, str]:
    """Return what a file is, and why it cannot be read if its format is not supported. Hidden files are no images.

    Args:
        name: the name, with folders.
        head: returns the first `HEAD` bytes. Called if the name says nothing, as in 'cat1' or 'cat1.jpg?w=200'.
    """
    parts = name.split("/")
    if "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "other", ""
    stem, dot, extension = parts[-1].lower().rpartition(".")
    ending = dot + extension if stem else ""
    if ending in EXTENSIONS:
        return "image", ""
    if reason := next((reason for ending, reason in UNSUPPORTED.items() if name.lower().endswith(ending)), ""):
        return "unsupported", reason
    if OTHER_TYPES.guess_type(f"file{ending}") != (None, None):
        return "other", ""
    return _classify_bytes(head())


def _classify_bytes(head: bytes) -> tuple[Kind, str]:
    accepted = (Image.OPEN[kind][1] for kind in SNIFFED if kind in Image.OPEN)
    if any(accepts and accepts(head[:16]) for accepts in accepted):
        return "image", ""
    if reason := plugin_reason(head):
        readable = ".jxl" if head.startswith(JXL_STARTS) else ".heic"
        return ("image", "") if readable in EXTENSIONS else ("unsupported", reason)
    return "other", ""


def plugin_reason(head: bytes) -> str:
    """Return which package a file with these first bytes needs, or an empty string."""
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and b"avif" not in head[:HEAD]:
        return UNSUPPORTED[".heic"]
    return UNSUPPORTED[".jxl"] if head.startswith(JXL_STARTS) else ""
