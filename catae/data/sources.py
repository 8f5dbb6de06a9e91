"""List the files of a source: a folder, a zip or tar archive, synthetic cats, Kaggle, or the Oxford pets.

Sources are untrusted. Reading never blocks, never unpacks to disk, and never follows a path out of an archive. A file
that is not regular, or too large, becomes an entry with the reason for its refusal. The ending of a name tells whether
a file is an image; if it says nothing, as in `cat.jpg?w=200`, the first bytes do.
"""

import hashlib
import io
import mimetypes
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import Image

from catae.data import archives, downloads, synthetic
from catae.data.archives import HEAD, Member
from catae.errors import DecodeError, UserError
from catae.system import pillow_plugins

Kind = Literal["image", "unsupported", "other"]

# Enough to train a model that reconstructs and samples, few enough to do so in minutes.
SYNTHETIC_COUNT = 2000

MAX_FILE = 256 * 2**20  # bytes; the largest images of cameras have 100 MB
MAX_PIXELS = 64_000_000  # more than nearly all cameras, and 256 MB decoded; decompression bombs declare far more

NAMED = ("drawn", "kaggle", "pets")  # sources that are not paths
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
COMPRESSED = (".gz", ".bz2", ".xz")  # a single file, or a tar whose name does not say so
PLUGINS = pillow_plugins.register(MAX_PIXELS)  # with their versions; in every process that imports this module
# Pillow also registers documents, videos, arrays and vector graphics, which it cannot read, or only with Ghostscript.
EXTENSIONS = {
    extension: kind
    for extension, kind in Image.registered_extensions().items()
    if kind in Image.OPEN and kind not in ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
}
CONVERT = "convert it to JPEG or PNG"
FORMATS = (  # that are not read, unless they are in EXTENSIONS, and what to do
    (".heic .heif .heics .heifs .hif", "HEIC: pip install 'catae[formats]' to read it with pillow-heif"),
    (".jxl", "JPEG XL: pip install 'catae[formats]' to read it with pillow-jxl-plugin"),
    (".avif .avifs", "AVIF: update Pillow to read it"),
    (".svg .svgz .eps .ai .cdr .wmf .emf", f"a vector graphic: {CONVERT}"),
    (
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 "
        ".srf .srw .x3f",
        f"a camera's raw file: {CONVERT}",
    ),
    (".psb .xcf .kra", f"an image editor's own format: {CONVERT}"),
    (".exr .jxr .wdp .hdp .dcm .dicom .bpg .flif .jls", f"not read by Pillow: {CONVERT}"),
)
UNSUPPORTED = {extension: reason for extensions, reason in FORMATS for extension in extensions.split()}
# Python's own list, without the machine's.
MIME_TYPES = mimetypes.MimeTypes(filenames=()).types_map[True]
SIGNATURES = {  # the first bytes of formats that are common without an ending, and an ending of each
    extension: re.compile(pattern, re.DOTALL)
    for extension, pattern in (
        (".jpg", rb"\xff\xd8\xff"),
        (".png", rb"\x89PNG\r\n\x1a\n"),
        (".gif", rb"GIF8[79]a"),
        (".webp", rb"RIFF....WEBP"),
        (".tif", rb"II\*\0|MM\0\*"),
        (".bmp", rb"BM....\0{4}....[\x0c(48@l|]\0{3}"),
        (".ppm", rb"P[1-6]\s+\d+\s+\d+\s"),
        (".psd", rb"8BPS\0\x01"),
        (".qoi", rb"qoif"),
        (".jp2", rb"\0\0\0\x0cjP  \r\n\x87\n"),
        (".j2k", rb"\xff\x4f\xff\x51"),
        (".jxl", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
        (".avif", rb"....ftyp.*avi[fs]"),
        (".heic", rb"....ftyp.*(hei[cxms]|hev[cxms]|mif1|msf1)"),
    )
}


@dataclass(frozen=True)
class Entry:
    """A file of a source.

    Attributes:
        name: printable name.
        read: returns the bytes, in any process, or raises `DecodeError`.
        refusal: why the file must not or cannot be read, or an empty string.
        kind: 'image', 'unsupported' for an image in a format that is not read, or 'other' for a file that is no image.
        held: number of bytes that `read` keeps in memory.
    """

    name: str
    read: Callable[[], bytes] = bytes
    refusal: str = ""
    kind: Kind = "image"
    held: int = 0


@dataclass(frozen=True)
class Listing:
    """The files of a source, to iterate over once.

    Attributes:
        total: number of files; None for a tar, which has no index.
        files: the files.
    """

    total: int | None
    files: Iterator[Entry]

    def __iter__(self) -> Iterator[Entry]:
        return self.files


def entries(source: str, size: int = 64) -> Listing:
    """List the files of `source`, images or not, sorted by name (those of a tar in archive order).

    Args:
        source: a folder, read recursively; a `.zip` or `.tar*` archive, read without unpacking; a folder with one
            archive and nothing else to read; `drawn[:COUNT[:SEED]]`; `kaggle:OWNER/NAME`; or `pets:cats`.
        size: height and width of synthetic cats, in pixels. It does not affect other sources.

    Raises:
        UserError: the source does not exist or cannot be opened, or an archive is damaged or a decompression bomb.
    """
    kind, _, rest = source.partition(":")
    if kind == "drawn":
        count, seed = parse_synthetic(source)
        return Listing(count, _synthetic(count, seed, size))
    if kind == "pets":
        return _pets(rest)
    path = downloads.kaggle(rest) if kind == "kaggle" else Path(source).expanduser()
    try:
        path = _single_archive(path)
        if path.is_dir():
            return Listing(sum(1 for _ in _walk(path)), _folder(path))
        path.open("rb").close()
        with archives.explain_damage(path):
            if zipfile.is_zipfile(path):
                total, members = archives.open_zip(path)
                return Listing(total, map(_member, members))
            if tarfile.is_tarfile(path):
                return Listing(None, map(_member, archives.open_tar(path)))
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}; correct --source (CATAE_SOURCE)") from error
    raise UserError(f"{path} is not a folder or a complete zip or tar archive; correct --source (CATAE_SOURCE)")


def fingerprint(source: str) -> str:
    """Return a string that changes with the source. It depends on names, sizes and times of files, not their contents.

    Raises:
        UserError: the source does not exist.
    """
    kind, _, rest = source.partition(":")
    if kind == "drawn":
        count, seed = parse_synthetic(source)
        code = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()
        return f"drawn:{count}:{seed}:{code}"
    path = downloads.kaggle(rest) if kind == "kaggle" else Path(source).expanduser().resolve()
    try:
        if kind == "pets":
            found = [file for head in downloads.pets() for file in (head.path, head.annotation)]
        elif path.is_dir():
            found = [file for _, file in _walk(path)]
        else:
            found = [path]
        hashed = hashlib.sha256(bytes(path))
        for file in found:
            hashed.update(os.fsencode(file) + _stat_key(file).encode())
    except FileNotFoundError as error:
        raise UserError(f"cannot read {source}: {error.strerror}; correct --source (CATAE_SOURCE)") from error
    return f"{path}:{hashed.hexdigest()}"


def absolute(source: str) -> str:
    """Return `source` with an absolute path."""
    return source if source.split(":")[0] in NAMED else str(Path(source).expanduser().absolute())


def label(source: str) -> str:
    """Return a short name of `source`: the last part of its path."""
    return source if source.split(":")[0] in NAMED else Path(source).expanduser().resolve().name


def parse_synthetic(source: str) -> tuple[int, int]:
    """Return the count and the seed of `drawn[:COUNT[:SEED]]`.

    Raises:
        UserError: they are not whole numbers, or the count is 0.
    """
    parts = source.split(":")[1:]
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"--source is {source!r}: it must be drawn, drawn:COUNT or drawn:COUNT:SEED, like drawn:500:7")
    count = int(parts[0]) if parts else SYNTHETIC_COUNT
    if count == 0:
        raise UserError(f"--source is {source!r}: the count must be at least 1, like drawn:500")
    return count, int(parts[1]) if len(parts) == 2 else 0


def is_image_name(name: str) -> bool:
    """Return whether the ending of a name is that of an image that is read. Hidden files do not count as images."""
    return _kind(name) == ("image", "")


def _kind(name: str) -> tuple[Kind | None, str]:
    """Return what the ending of a name says a file is, None if it says nothing, and why it cannot be read if so."""
    parts = name.replace("\\", "/").split("/")
    if "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "other", ""
    if name.lower().endswith(ARCHIVES):
        return "image", "an archive inside the source; use it as a source of its own"
    stem, dot, ending = parts[-1].rpartition(".")
    extension = (dot + ending).lower() if stem else ""
    if extension in EXTENSIONS:
        return "image", ""
    if extension in UNSUPPORTED:
        return "unsupported", UNSUPPORTED[extension]
    if extension in COMPRESSED:
        return ("unsupported", "compressed: unpack it") if _kind(stem)[0] in ("image", "unsupported") else ("other", "")
    mime = MIME_TYPES.get(extension, "application/octet-stream")
    return (None, "") if mime.startswith("image/") or mime == "application/octet-stream" else ("other", "")


def _entry(
    name: str,
    head: Callable[[], bytes],
    read: Callable[[], bytes],
    refusal: str = "",
    size: int = 0,
    streamed: bool = False,
) -> Entry:
    """Return the entry of a file; the arguments are as in `Member`."""
    if not name:
        return Entry("(no name)", refusal="without a name")
    printable = _printable(name)
    kind, reason = _kind(name)
    try:
        if kind is None and not refusal:
            first = head()
            found = next((extension for extension, pattern in SIGNATURES.items() if pattern.match(first)), None)
            kind, reason = _kind(f"sniffed{found}") if found else ("other", "")
        refusal = refusal or reason or (_too_large(size) if size > MAX_FILE else "")
        if kind in ("unsupported", "other"):
            return Entry(printable, refusal=reason, kind=kind)
        if refusal or not streamed:
            return Entry(printable, bytes if refusal else read, refusal)
        data = read()
    except DecodeError as error:
        return Entry(printable, refusal=str(error))
    return Entry(printable, partial(bytes, data), held=len(data))


def _member(member: Member) -> Entry:
    return _entry(member.name, member.head, member.read, member.refusal, member.size, member.streamed)


def _synthetic(count: int, seed: int, size: int) -> Iterator[Entry]:
    for index in range(count):
        yield Entry(f"drawn/{index + 1:06}.png", partial(_draw, index, seed, size))


def _draw(index: int, seed: int, size: int) -> bytes:
    data = io.BytesIO()
    synthetic.draw(index, seed, size).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _pets(species: str) -> Listing:
    if species != "cats":
        raise UserError(f"--source is 'pets:{species}': the only pets are pets:cats")
    heads = downloads.pets()
    # The crops are PNG, whatever the format of the original.
    crops = (Entry(f"{head.path.stem}.png", partial(downloads.crop_head, head.path, head.annotation)) for head in heads)
    return Listing(len(heads), crops)


def _single_archive(path: Path) -> Path:
    """Return the archive in a folder with one archive and no images or folders; return any other path unchanged.

    A container sees such a folder when the user mounts the folder of an archive.
    """
    if not path.is_dir():
        return path
    found = []
    with os.scandir(path) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            if item.is_dir():
                return path
            file, name = path / item.name, item.name.lower()
            # A damaged archive is an error that names it, but the name of a compressed file says little.
            if name.endswith(ARCHIVES) or (name.endswith(COMPRESSED) and item.is_file() and tarfile.is_tarfile(file)):
                found.append(file)
            elif _file_entry(item.name, file).kind != "other":
                return path
    return found[0] if len(found) == 1 else path


def _folder(root: Path) -> Iterator[Entry]:
    for refusal, path in _walk(root):
        yield _file_entry(path.relative_to(root).as_posix(), path, refusal)


def _file_entry(name: str, path: Path, refusal: str = "") -> Entry:
    return _entry(name, partial(_read_file, path, HEAD), partial(_read_file, path), refusal)


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below `root` in the order of names, each with the reason for its refusal or an empty string.

    Links to folders are followed, but each folder is read once, so that loops of links end.
    """
    pending, seen = [root], set()
    while pending:
        folder = pending.pop()
        try:
            info = folder.stat()
            items = sorted((item.name, item.is_dir()) for item in os.scandir(folder))
        except OSError as error:
            yield f"cannot be listed: {error.strerror}", folder
            continue
        if (info.st_dev, info.st_ino) in seen:
            yield "a link to a folder that is already read", folder
            continue
        seen.add((info.st_dev, info.st_ino))
        yield from (("", folder / name) for name, is_folder in items if not is_folder)
        pending += (folder / name for name, is_folder in reversed(items) if is_folder)


def _read_file(path: Path, first: int | None = None) -> bytes:
    """Read a regular file or its first bytes, without blocking: opening a pipe without a writer would wait forever."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DecodeError("not a regular file")
            if first is None and info.st_size > MAX_FILE:
                raise DecodeError(_too_large(info.st_size))
            return file.read(MAX_FILE if first is None else first)
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error


def _too_large(size: int) -> str:
    return f"{size / 2**20:,.0f} MB exceed the limit of {MAX_FILE / 2**20:.0f} MB"


def _stat_key(path: Path) -> str:
    """Return what changes with the contents of a file. Behind a link it is the target's, unless that is missing."""
    try:
        info = path.stat()
    except OSError:
        info = path.lstat()
    return f"{info.st_ino}:{info.st_size}:{info.st_mtime_ns}"


def _printable(name: str) -> str:
    r"""Return a name as valid UTF-8: other bytes become escapes such as `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
