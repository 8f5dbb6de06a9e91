"""Where pictures come from: a folder, a zip or tar archive, cats drawn by code, Kaggle, or the Oxford pets.

Whatever is found there, reading never hangs, never unpacks and never follows a name out of the source: what is no
ordinary file of a sensible size becomes an entry that says so when it is read.
"""

import hashlib
import io
import os
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from PIL import Image

from catae.data import downloads, synthetic
from catae.errors import DecodeError, UserError

# Enough cats for a model that restores and samples, few enough to draw and train on in minutes.
DRAWN_COUNT = 2000

MAX_FILE = 256 * 2**20  # bytes; the largest pictures of cameras have 100 MB
MAX_RATIO = 100  # unpacked bytes to packed ones, of a whole archive; pictures are packed already and have 1 to 10
RATIO_FLOOR = 2**30  # unpacked bytes below which the ratio is nobody's concern

EXTENSIONS = Image.registered_extensions()
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip's member: signature, and the lengths of name and extra field
HEADER_ROOM = 512  # bytes for a local header with its name, so that one reading is enough
NAMED = ("drawn", "kaggle", "pets")  # sources that are no path
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class Entry:
    """A file of a source.

    Attributes:
        name: as it is shown.
        read: gives its bytes, in another process as well; raises `DecodeError` where they are not to be had.
        refusal: why it is not to be read, if it is not.
    """

    name: str
    read: Callable[[], bytes] = bytes
    refusal: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of a source, to go through once.

    Attributes:
        total: how many they are; None for a tar, of which it isn't known before it has been gone through.
    """

    total: int | None
    files: Iterator[Entry]

    def __iter__(self) -> Iterator[Entry]:
        return self.files


def entries(source: str, size: int = 64) -> Listing:
    """The files of `source`, whatever they hold, in the order of their names (a tar's in its own order).

    Args:
        source: a folder, read recursively; a `.zip` or `.tar*` archive, or a folder with nothing to read but one
            archive, read without unpacking;
            `drawn[:COUNT[:SEED]]`; `kaggle:OWNER/NAME`; or `pets:cats`.
        size: height and width, in pixels, of the cats that are drawn; the rest is given as it stands.

    Raises:
        UserError: there is no such source, it can't be opened, or an archive is damaged or a bomb.
    """
    kind, _, rest = source.partition(":")
    if kind == "drawn":
        count, seed = parse_drawn(source)
        return Listing(count, _drawn(count, seed, size))
    if kind == "pets":
        return _pets(rest)
    path = downloads.kaggle(rest) if kind == "kaggle" else Path(source).expanduser()
    try:
        path = _unwrapped(path)
        if path.is_dir():
            return Listing(sum(1 for _ in _walk(path)), _folder(path))
        path.open("rb").close()
        with _opened(path):
            if zipfile.is_zipfile(path):
                return _zip(path)
            if tarfile.is_tarfile(path):
                return Listing(None, _tar(path))
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}; correct --source (CATAE_SOURCE)") from error
    raise UserError(f"{path} is neither a folder nor a whole zip or tar archive; correct --source (CATAE_SOURCE)")


def fingerprint(source: str) -> str:
    """A word that changes when the source does: made from names, sizes and times, without reading a picture.

    Raises:
        UserError: there is no such source.
    """
    kind, _, rest = source.partition(":")
    if kind == "drawn":
        count, seed = parse_drawn(source)
        how = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()
        return f"drawn:{count}:{seed}:{how}"
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
            hashed.update(os.fsencode(file) + _state(file.lstat() if file != path else file.stat()).encode())
    except FileNotFoundError as error:
        raise UserError(f"cannot read {source}: {error.strerror}; correct --source (CATAE_SOURCE)") from error
    return f"{path}:{hashed.hexdigest()}"


def absolute(source: str) -> str:
    """`source` as it can be found from any folder."""
    return source if source.split(":")[0] in NAMED else str(Path(source).expanduser().absolute())


def label(source: str) -> str:
    """What to call `source` before people: its last part."""
    return source if source.split(":")[0] in NAMED else Path(source).expanduser().resolve().name


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
    parts = name.split("/")
    if "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts):
        return False
    stem, dot, ending = parts[-1].rpartition(".")
    return bool(stem) and (dot + ending).lower() in EXTENSIONS


def _drawn(count: int, seed: int, size: int) -> Iterator[Entry]:
    for index in range(count):
        yield Entry(f"drawn/{index + 1:06}.png", partial(_draw, index, seed, size))


def _draw(index: int, seed: int, size: int) -> bytes:
    picture = io.BytesIO()
    synthetic.draw(index, seed, size).save(picture, "PNG", compress_level=1)
    return picture.getvalue()


def _pets(which: str) -> Listing:
    if which != "cats":
        raise UserError(f"--source is 'pets:{which}': of the pets there are only pets:cats")
    heads = downloads.pets()
    # They are given as PNG, whatever the file they were cut from.
    cut = (Entry(f"{head.path.stem}.png", partial(downloads.crop, head.path, head.annotation)) for head in heads)
    return Listing(len(heads), cut)


def _unwrapped(path: Path) -> Path:
    """The one archive in a folder that holds neither pictures nor folders beside it; any other path as it is.

    That is what a container finds where an archive's folder is mounted.
    """
    if not path.is_dir():
        return path
    archives = []
    with os.scandir(path) as found:
        for item in found:
            if item.name.startswith("."):
                continue
            if item.is_dir() or is_picture_name(item.name):
                return path
            if item.name.lower().endswith(ARCHIVES):
                archives.append(path / item.name)
    return archives[0] if len(archives) == 1 else path


def _folder(root: Path) -> Iterator[Entry]:
    for refusal, path in _walk(root):
        yield _entry(path.relative_to(root).as_posix(), partial(_read_file, path), refusal)


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """The files below `root`, links to folders followed, in the order of names; with a reason what is not to be read.

    Each folder is read once, however many links lead to it, so that no loop and no maze of links has an end to wait
    for.
    """
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        try:
            about = folder.stat()
            found = sorted((item.name, item.is_dir()) for item in os.scandir(folder))
        except OSError as error:
            yield f"it can't be listed: {error.strerror}", folder
            continue
        if (about.st_dev, about.st_ino) in seen:
            yield "it is a link to a folder that has been read already", folder
            continue
        seen.add((about.st_dev, about.st_ino))
        yield from (("", folder / name) for name, is_folder in found if not is_folder)
        waiting += (folder / name for name, is_folder in reversed(found) if is_folder)


def _read_file(path: Path) -> bytes:
    """The bytes of an ordinary file. Nothing is waited for: a pipe without a writer would never give any."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise DecodeError("it is no ordinary file")
            if about.st_size > MAX_FILE:
                raise DecodeError(_too_large(about.st_size))
            return file.read(MAX_FILE)
    except OSError as error:
        raise DecodeError(f"it can't be read: {error.strerror}") from error


def _zip(path: Path) -> Listing:
    archive = zipfile.ZipFile(path)
    # zipfile's own is_dir() fails where a member has no name at all.
    members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    return Listing(len(members), _zip_members(path, archive, sorted(members, key=lambda member: member.filename)))


def _zip_members(path: Path, archive: zipfile.ZipFile, found: list[zipfile.ZipInfo]) -> Iterator[Entry]:
    with _opened(path), archive:
        unpacked, packed, members = 0, path.stat().st_size, _Members(path)
        for member in found:
            unpacked += member.file_size
            _check_ratio(path, unpacked, packed)
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            refusal = "it is a link" if is_link else "it is encrypted" if member.flag_bits & 1 else ""
            if member.compress_size > packed:
                refusal = refusal or "it claims to be larger than the archive"
            told = (member.header_offset, member.compress_size, member.file_size, member.compress_type, member.CRC)
            plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            read = partial(members.read, *told) if plain else _read_otherwise(archive, member, refusal)
            yield _member(member.filename, member.file_size, read, refusal)


def _read_otherwise(archive: zipfile.ZipFile, member: zipfile.ZipInfo, refusal: str) -> Callable[[], bytes]:
    """A member that is packed in a way of which only zipfile knows, read at once, if it is to be read."""
    if refusal or member.file_size > MAX_FILE or not is_picture_name(member.filename):
        return bytes
    try:
        return partial(bytes, archive.read(member))
    except Exception as error:  # noqa: BLE001 - on broken bytes the libraries raise whatever they run into
        return partial(_refuse, f"it can't be unpacked: {str(error) or type(error).__name__}")


def _refuse(reason: str) -> bytes:
    raise DecodeError(reason)


class _Members:
    """The stored and deflated members of a zip, for any thread, and for another process that it is sent to.

    zipfile's own reading takes five times as long for a small picture, most of it with Python's lock held, so that
    threads would wait for each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type["_Members"], tuple[Path]]:
        return _Members, (self.path,)

    @cached_property
    def descriptor(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read(self, offset: int, packed: int, size: int, method: int, crc: int) -> bytes:
        """The bytes of the member whose header is at `offset`; the rest is what the archive's directory says of it."""
        try:
            data = os.pread(self.descriptor, packed + HEADER_ROOM, offset)
            signature, names, extra = LOCAL_HEADER.unpack_from(data)
            start = LOCAL_HEADER.size + names + extra
            if len(data) < start + packed:  # a longer name or extra field than most
                data, start = os.pread(self.descriptor, packed, offset + start), 0
            data = data[start : start + packed]
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except OSError as error:
            raise DecodeError(f"it can't be read: {error.strerror}") from error
        except (struct.error, zlib.error, OverflowError) as error:
            raise DecodeError(f"it can't be unpacked: {error}") from error
        if signature != b"PK\x03\x04" or len(data) != size or zlib.crc32(data) != crc:
            raise DecodeError("it can't be unpacked: its checksum is not that of its bytes")
        return data


def _tar(path: Path) -> Iterator[Entry]:
    # As a stream, since a compressed tar can only be read forwards, and without the list of members that tarfile
    # would keep: 1.5 GB for a million of them.
    with _opened(path), tarfile.open(path, "r|*") as archive:
        unpacked, packed = 0, path.stat().st_size
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            if member.isdir():
                continue
            unpacked += member.size
            _check_ratio(path, unpacked, packed)
            is_link = member.issym() or member.islnk()
            refusal = "it is a link" if is_link else "" if member.isreg() else "it is no ordinary file"
            wanted = not refusal and is_picture_name(member.name)
            yield _member(member.name, member.size, _extract(archive, member) if wanted else bytes, refusal)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    """A member's bytes, read at once: a compressed tar is gone through only once."""
    if member.size > MAX_FILE:
        return bytes  # not read: its size is told
    content = archive.extractfile(member)
    assert content is not None  # it is an ordinary file
    return partial(bytes, content.read())


def _member(name: str, size: int, read: Callable[[], bytes], refusal: str) -> Entry:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (not parts[0] and len(parts) > 1) or parts[0].endswith(":"):
        refusal = refusal or "its name leads out of the archive"
    if size > MAX_FILE:
        refusal = refusal or _too_large(size)
    return _entry(name, read, refusal)


def _entry(name: str, read: Callable[[], bytes], refusal: str) -> Entry:
    if not name:
        return Entry("(no name)", refusal="it has no name")
    if name.lower().endswith(ARCHIVES):
        refusal = refusal or "it is an archive inside the source; give it as a source of its own"
    return Entry(_printable(name), refusal=refusal) if refusal else Entry(_printable(name), read)


def _too_large(size: int) -> str:
    return f"it has {size / 2**20:,.0f} MB, more than the {MAX_FILE / 2**20:.0f} that are read of a file"


def _check_ratio(path: Path, unpacked: int, packed: int) -> None:
    if unpacked > max(RATIO_FLOOR, MAX_RATIO * packed):
        raise UserError(
            f"{path} unpacks to more than {MAX_RATIO} times its size, as no pictures do; if you trust it, unpack it "
            "yourself and give the folder"
        )


def _state(about: os.stat_result) -> str:
    return f"{about.st_ino}:{about.st_size}:{about.st_mtime_ns}"


def _printable(name: str) -> str:
    r"""A name as text that every file and terminal takes: bytes that are no UTF-8 become `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Turns what the archive libraries raise of a damaged archive into one line for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged ({str(error) or type(error).__name__}); get it again") from error
