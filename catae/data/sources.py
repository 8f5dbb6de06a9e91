"""List the files of a source: a folder, a zip or tar archive, synthetic cats, Kaggle, or the Oxford pets.

Sources are untrusted. Reading never blocks, never unpacks to disk, and never follows a path out of an archive. A file
that is not regular, or too large, becomes an entry with the reason for its refusal.
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
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import IO

from catae.data import downloads, formats, synthetic
from catae.data.formats import Kind
from catae.errors import DecodeError, UserError

# Enough to train a model that reconstructs and samples, few enough to do so in minutes.
SYNTHETIC_COUNT = 2000

MAX_FILE = 256 * 2**20  # bytes; the largest images of cameras have 100 MB
MAX_RATIO = 100  # of unpacked to packed bytes of a whole archive; images are already compressed and reach 1 to 10
RATIO_FLOOR = 2**30  # unpacked bytes below which the ratio does not matter

LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, and lengths of name and extra field
HEADER_ROOM = 512  # bytes for a local header and its name, so that one read is usually enough
NAMED = ("drawn", "kaggle", "pets")  # sources that are not paths


@dataclass(frozen=True)
class Entry:
    """A file of a source.

    Attributes:
        name: printable name.
        read: returns the bytes, in any process, or raises `DecodeError`.
        refusal: why the file must not or cannot be read, or an empty string.
        kind: what it is, by its name or its first bytes.
        held: bytes that `read` holds in memory.
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
        with _explain_damage(path):
            if zipfile.is_zipfile(path):
                return _zip(path)
            if tarfile.is_tarfile(path):
                return Listing(None, _tar(path))
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
            # Of a link, its target: the link stays the same when the target changes.
            info = file.stat() if file.exists() else file.lstat()
            hashed.update(os.fsencode(file) + _stat_key(info).encode())
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
    archives = []
    with os.scandir(path) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            if item.name.lower().endswith(formats.ARCHIVES) and not item.is_dir():
                archives.append(path / item.name)
            elif item.is_dir() or formats.classify(item.name, partial(_head, path / item.name))[0] != "other":
                return path
    return archives[0] if len(archives) == 1 else path


def _folder(root: Path) -> Iterator[Entry]:
    for refusal, path in _walk(root):
        name = path.relative_to(root).as_posix()
        if refusal:  # of a folder, which may hold images
            yield Entry(_printable(name), refusal=refusal)
        else:
            yield _entry(name, partial(_read_file, path), "", partial(_head, path))


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


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, or none if it cannot be read."""
    try:
        return _read_file(path, formats.HEAD)
    except DecodeError:
        return b""


def _read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """Read a regular file without blocking: opening a pipe without a writer would wait forever."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise DecodeError("not a regular file")
            if info.st_size > MAX_FILE:
                raise DecodeError(_too_large(info.st_size))
            return file.read(limit)
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error


def _zip(path: Path) -> Listing:
    archive = zipfile.ZipFile(path)
    # zipfile's own is_dir() fails if a member has an empty name.
    members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    return Listing(len(members), _zip_members(path, archive, sorted(members, key=lambda member: member.filename)))


def _zip_members(path: Path, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> Iterator[Entry]:
    with _explain_damage(path), archive:
        unpacked, packed, members = 0, path.stat().st_size, _Members(path)
        for member in infos:
            unpacked += member.file_size
            _check_ratio(path, unpacked, packed)
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            refusal = "a link" if is_link else "encrypted" if member.flag_bits & 1 else ""
            if member.compress_size > packed:
                refusal = refusal or "its declared size exceeds the archive's"
            location = (member.header_offset, member.compress_size, member.file_size, member.compress_type, member.CRC)
            plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            read = partial(members.read, *location) if plain else partial(_read_with_zipfile, archive, member)
            entry = _member(member.filename, member.file_size, read, refusal, partial(_first, read))
            yield entry if plain else _held(entry)


def _read_with_zipfile(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a member with a rare compression method."""
    try:
        return archive.read(member)
    except Exception as error:
        raise DecodeError(f"cannot be unpacked: {str(error) or type(error).__name__}") from error


def _first(read: Callable[[], bytes]) -> bytes:
    """Return the first bytes of a member, or none if it cannot be read."""
    try:
        return read()[: formats.HEAD]
    except DecodeError:
        return b""


def _held(entry: Entry) -> Entry:
    """Read an image at once, because its archive is read only once, and by one process."""
    if entry.refusal or entry.kind != "image":
        return entry
    try:
        content = entry.read()
    except DecodeError as error:
        return replace(entry, read=partial(_refuse, str(error)))
    return replace(entry, read=partial(bytes, content), held=len(content))


def _refuse(reason: str) -> bytes:
    raise DecodeError(reason)


class _Members:
    """Read stored and deflated members of a zip. Safe to use in threads and to send to other processes.

    zipfile takes five times as long for a small image and mostly holds the GIL, so that threads would wait for each
    other.
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
        """Return the bytes of a member, given its header's offset and the other fields of the central directory."""
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
            raise DecodeError(f"cannot be read: {error.strerror}") from error
        except (struct.error, zlib.error, OverflowError) as error:
            raise DecodeError(f"cannot be unpacked: {error}") from error
        if signature != b"PK\x03\x04" or len(data) != size or zlib.crc32(data) != crc:
            raise DecodeError("cannot be unpacked: its checksum does not match")
        return data


def _tar(path: Path) -> Iterator[Entry]:
    # Read as a stream: a compressed tar can only be read forwards. Drop tarfile's list of members, which takes 1.5 GB
    # for a million members.
    with _explain_damage(path), tarfile.open(path, "r|*") as archive:
        unpacked, packed = 0, path.stat().st_size
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            if member.isdir():
                continue
            unpacked += member.size
            _check_ratio(path, unpacked, packed)
            refusal = "" if member.isreg() else "not a regular file"
            if member.issym() or member.islnk():
                # The bytes of an earlier member are gone: a tar is read as a stream.
                refusal = "a link; pack the files themselves: tar --dereference --hard-dereference"
            content = _Content(archive, member)
            yield _held(_member(member.name, member.size, content.read, refusal, content.head))


class _Content:
    """The content of a regular member of a tar that is read as a stream, up to `MAX_FILE`."""

    def __init__(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.archive, self.member = archive, member
        self.start = b""

    @cached_property
    def file(self) -> IO[bytes]:
        file = self.archive.extractfile(self.member)
        assert file is not None  # it is a regular file
        return file

    def head(self) -> bytes:
        """Return the first bytes."""
        if self.member.isreg():
            self.start = self.file.read(formats.HEAD)
        return self.start

    def read(self) -> bytes:
        """Return all bytes."""
        return self.start + self.file.read()


def _member(name: str, size: int, read: Callable[[], bytes], refusal: str, head: Callable[[], bytes]) -> Entry:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (not parts[0] and len(parts) > 1) or parts[0].endswith(":"):
        refusal = refusal or "its path leads out of the archive"
    if size > MAX_FILE:
        refusal = refusal or _too_large(size)
    return _entry(name, read, refusal, head)


def _entry(name: str, read: Callable[[], bytes], refusal: str, head: Callable[[], bytes]) -> Entry:
    if not name:
        return Entry("(no name)", refusal="without a name")
    kind, reason = formats.classify(name, bytes if refusal else head)
    reason = refusal or reason
    return Entry(_printable(name), refusal=reason, kind=kind) if reason else Entry(_printable(name), read, kind=kind)


def _too_large(size: int) -> str:
    return f"{size / 2**20:,.0f} MB exceed the limit of {MAX_FILE / 2**20:.0f} MB"


def _check_ratio(path: Path, unpacked: int, packed: int) -> None:
    if unpacked > max(RATIO_FLOOR, MAX_RATIO * packed):
        raise UserError(
            f"{path} unpacks to more than {MAX_RATIO} times its size, which images do not; if you trust it, unpack it "
            "and use the folder as --source (CATAE_SOURCE)"
        )


def _stat_key(info: os.stat_result) -> str:
    return f"{info.st_ino}:{info.st_size}:{info.st_mtime_ns}"


def _printable(name: str) -> str:
    r"""Return a name as valid UTF-8: other bytes become escapes such as `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn the exceptions of the archive libraries into one line for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is damaged ({str(error) or type(error).__name__}); download or copy it again"
        ) from error
