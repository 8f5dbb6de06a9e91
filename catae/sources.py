"""Where pictures come from: a folder, a zip or tar archive, or cats drawn by code."""

import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from catae import drawn
from catae.errors import UserError

# Enough cats for a model that restores and samples, few enough to draw and train on in minutes.
DRAWN_COUNT = 2000


@dataclass(frozen=True)
class Entry:
    """A file of a source: its name, and how to get its bytes."""

    name: str
    read: Callable[[], bytes]


def entries(source: str, size: int = 64) -> Iterator[Entry]:
    """The files of `source`, whatever they hold, in the order of their names (a tar's in its own order).

    An entry is read before the next one is asked for; reading one may fail, and leaves the others as they are.

    Args:
        source: a folder, read recursively; a `.zip` or `.tar*` archive, read without unpacking; or
            `drawn[:COUNT[:SEED]]`.
        size: height and width, in pixels, of the cats that are drawn; the rest is given as it stands.

    Raises:
        UserError: there is no such source, or it can't be opened.
    """
    if source.split(":")[0] == "drawn":
        return _drawn(*parse_drawn(source), size)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        path.open("rb").close()
        if zipfile.is_zipfile(path):
            return _zip(path)
        if tarfile.is_tarfile(path):
            return _tar(path)
    except OSError as error:
        raise UserError(f"{source} can't be read: {error.strerror}; correct --source (CATAE_SOURCE)") from error
    raise UserError(f"{source} is neither a folder nor a whole zip or tar archive; correct --source (CATAE_SOURCE)")


def label(source: str) -> str:
    """What to call `source` before people: its last part."""
    return source if source.split(":")[0] == "drawn" else Path(source).expanduser().resolve().name


def parse_drawn(source: str) -> tuple[int, int]:
    """The count and the seed that `drawn[:COUNT[:SEED]]` asks for.

    Raises:
        UserError: they are not whole numbers, or there is nothing to draw.
    """
    parts = source.split(":")[1:]
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"--source is {source!r}: it must be drawn, drawn:COUNT or drawn:COUNT:SEED, like drawn:500:7")
    count = int(parts[0]) if parts else DRAWN_COUNT
    if count == 0:
        raise UserError(f"--source is {source!r}: no cats to draw; ask for some, like drawn:500")
    return count, int(parts[1]) if len(parts) == 2 else 0


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is meant to be a picture that Pillow reads; hidden files are not."""
    parts = Path(name).parts
    if "__MACOSX" in parts or any(part.startswith(".") and part != ".." for part in parts):
        return False
    return Path(name).suffix.lower() in Image.registered_extensions()


def _drawn(count: int, seed: int, size: int) -> Iterator[Entry]:
    for index in range(count):
        yield Entry(f"drawn/{index + 1:06}.png", partial(_draw, index, seed, size))


def _draw(index: int, seed: int, size: int) -> bytes:
    picture = io.BytesIO()
    drawn.draw(index, seed, size).save(picture, "PNG", compress_level=1)
    return picture.getvalue()


def _folder(root: Path) -> Iterator[Entry]:
    closed: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=closed.append):
        folders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            yield Entry(path.relative_to(root).as_posix(), path.read_bytes)
    for error in closed:
        yield Entry(os.path.relpath(error.filename, root) + "/", partial(_fail, error))


def _fail(error: OSError) -> bytes:
    """Reading a folder that can't be listed: it fails as a file in it would."""
    raise error


def _zip(path: Path) -> Iterator[Entry]:
    with _opened(path), zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if not member.is_dir():
                yield Entry(member.filename, partial(archive.read, member))


def _tar(path: Path) -> Iterator[Entry]:
    # Not sorted: a compressed tar can only be read forwards.
    with _opened(path), tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield Entry(member.name, content.read)


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Turns what the archive libraries raise of a damaged archive into one line for the user."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from error
