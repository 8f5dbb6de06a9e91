"""Read the members of zip and tar archives, without unpacking them to disk.

Archives are untrusted: no member leads out of its archive, links are not followed out of it, and the bytes that an
archive unpacks to are limited. Memory grows neither with the size of a member that is not read nor, for a tar, with the
number of members.
"""

import os
import posixpath
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO

from catae.errors import DecodeError, UserError

HEAD = 32  # first bytes of a file, which tell its format
MAX_RATIO = 100  # of unpacked to packed bytes of a whole archive; images are already compressed and reach 1 to 10
RATIO_FLOOR = 2**30  # unpacked bytes below which the ratio does not matter

LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, and lengths of name and extra field
HEADER_ROOM = 512  # bytes for a local header and its name, so that one read is usually enough
PACKED_HEAD = 512  # packed bytes that surely unpack to `HEAD`


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its name in the archive.
        size: number of bytes, unpacked.
        head: returns the first `HEAD` bytes, or raises `DecodeError`.
        read: returns all bytes, in any process unless `streamed`, or raises `DecodeError`.
        refusal: why the member must not be read, or an empty string.
        streamed: whether it must be read before the next member is listed, because the archive is read only forwards.
    """

    name: str
    size: int
    head: Callable[[], bytes] = bytes
    read: Callable[[], bytes] = bytes
    refusal: str = ""
    streamed: bool = False


def open_zip(path: Path) -> tuple[int, Iterator[Member]]:
    """Return the number of files in a zip, and the files, sorted by name.

    Raises:
        UserError: the archive is damaged or a decompression bomb. The iterator raises it as well.
    """
    with explain_damage(path):
        archive = zipfile.ZipFile(path)
        # zipfile's own is_dir() fails if a member has an empty name.
        infos = [info for info in archive.infolist() if not info.filename.endswith("/")]
        return len(infos), _zip_members(path, archive, sorted(infos, key=lambda info: info.filename))


def _zip_members(path: Path, archive: zipfile.ZipFile, infos: Sequence[zipfile.ZipInfo]) -> Iterator[Member]:
    with explain_damage(path), archive:
        unpacked, packed, file = 0, path.stat().st_size, _File(path)
        for info in infos:
            unpacked += info.file_size
            _check_ratio(path, unpacked, packed)
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            refusal = "a link" if is_link else "encrypted" if info.flag_bits & 1 else ""
            if info.compress_size > packed:
                refusal = refusal or "its declared size exceeds the archive's"
            streamed = info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if streamed:  # a rare compression method
                read, head = partial(_unpack, archive, info, -1), partial(_unpack, archive, info, HEAD)
            else:
                place = (info.header_offset, info.compress_size, info.compress_type)
                read = partial(file.read_zipped, *place, info.file_size, info.CRC)
                head = partial(file.read_zipped_head, *place)
            yield Member(info.filename, info.file_size, head, read, refusal or _unsafe(info.filename), streamed)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> bytes:
    """Return the first `size` bytes of a member, or all if it is -1, with zipfile."""
    try:
        with archive.open(info) as content:
            return content.read(size)
    except Exception as error:
        raise DecodeError(f"cannot be unpacked: {str(error) or type(error).__name__}") from error


def open_tar(path: Path) -> Iterator[Member]:
    """Return the files in a tar, compressed or not, in the order of the archive.

    Members of an uncompressed tar can be read at any time. Those of a compressed one are streamed.

    Raises:
        UserError: the archive is damaged or a decompression bomb.
    """
    with explain_damage(path):
        plain = _is_uncompressed(path)
        links: dict[int, tuple[int, int]] | None = None
        unpacked, packed, file = 0, path.stat().st_size, _File(path)
        with tarfile.open(path, "r:" if plain else "r|*") as archive:
            for member in _headers(archive):
                if member.isdir():
                    continue
                place, refusal = (member.offset_data, member.size), ""
                if member.islnk() and plain:
                    links = _locate_hard_links(path) if links is None else links
                    place = links.get(member.offset, (0, 0))
                    refusal = "" if member.offset in links else "a hard link to a file that does not come before it"
                elif member.islnk():
                    refusal = (
                        "a hard link, which cannot be followed in a compressed archive; unpack it and use the folder"
                    )
                elif not member.isreg():
                    refusal = "a link" if member.issym() else "not a regular file"
                unpacked += place[1]
                _check_ratio(path, unpacked, packed)
                refusal = refusal or _unsafe(member.name)
                if refusal:
                    yield Member(member.name, place[1], refusal=refusal)
                elif plain and not member.issparse():
                    head, read = partial(file.read, place[0], min(HEAD, place[1])), partial(file.read, *place)
                    yield Member(member.name, place[1], head, read)
                else:
                    content = archive.extractfile(member)
                    assert content is not None  # it is a regular file
                    head, read = partial(_peek, path, content), partial(_read_stream, path, content)
                    yield Member(member.name, member.size, head, read, streamed=True)


def _is_uncompressed(path: Path) -> bool:
    try:
        tarfile.open(path, "r:").close()
    except tarfile.ReadError:
        return False
    return True


def _headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members, and drop tarfile's list of them, which takes 1.5 GB for a million."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member


def _locate_hard_links(path: Path) -> dict[int, tuple[int, int]]:
    """Return where an uncompressed tar has the bytes of each hard link: by the link's offset, their offset and number.

    The first pass finds the names that links point to, so that memory grows with the number of links only.
    """
    with tarfile.open(path, "r:") as archive:
        targets = {posixpath.normpath(member.linkname) for member in _headers(archive) if member.islnk()}
    places: dict[str, tuple[int, int]] = {}  # of the targets, as far as the archive has been read
    links = {}
    with tarfile.open(path, "r:") as archive:
        for member in _headers(archive):
            place = (member.offset_data, member.size) if member.isreg() and not member.issparse() else None
            if member.islnk():
                place = places.get(posixpath.normpath(member.linkname))
                if place:
                    links[member.offset] = place
            name = posixpath.normpath(member.name)
            if place and name in targets:
                places[name] = place
    return links


def _peek(path: Path, content: IO[bytes]) -> bytes:
    with explain_damage(path):
        head: bytes = content.peek(HEAD)[:HEAD]  # type: ignore[attr-defined]
        return head


def _read_stream(path: Path, content: IO[bytes]) -> bytes:
    with explain_damage(path):
        return content.read()


class _File:
    """Read parts of an archive. Safe to use in threads and to send to other processes.

    zipfile takes five times as long for a small image and mostly holds the GIL, so that threads would wait for each
    other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type["_File"], tuple[Path]]:
        return _File, (self.path,)

    @cached_property
    def descriptor(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on."""
        try:
            data = os.pread(self.descriptor, size, offset)
        except OSError as error:
            raise DecodeError(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise DecodeError("cannot be read: the archive ends before it")
        return data

    def read_zipped(self, offset: int, packed: int, method: int, size: int, crc: int) -> bytes:
        """Return the bytes of a stored or deflated member, given its header's offset and fields of the directory."""
        data = self._unpack(offset, packed, method, size + 1)
        if len(data) != size or zlib.crc32(data) != crc:
            raise DecodeError("cannot be unpacked: its checksum does not match")
        return data

    def read_zipped_head(self, offset: int, packed: int, method: int) -> bytes:
        """Return the first `HEAD` bytes of a stored or deflated member."""
        return self._unpack(offset, min(packed, PACKED_HEAD), method, HEAD)[:HEAD]

    def _unpack(self, offset: int, packed: int, method: int, size: int) -> bytes:
        """Return the first `packed` bytes of a member; if they are deflated, unpack at most `size` bytes from them."""
        try:
            data = os.pread(self.descriptor, packed + HEADER_ROOM, offset)
            signature, names, extra = LOCAL_HEADER.unpack_from(data)
            start = LOCAL_HEADER.size + names + extra
            if len(data) < start + packed:  # a longer name or extra field than most
                data, start = os.pread(self.descriptor, packed, offset + start), 0
            data = data[start : start + packed]
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
        except OSError as error:
            raise DecodeError(f"cannot be read: {error.strerror}") from error
        except (struct.error, zlib.error, OverflowError) as error:
            raise DecodeError(f"cannot be unpacked: {error}") from error
        if signature != b"PK\x03\x04":
            raise DecodeError("cannot be unpacked: its header is damaged")
        return data


def _unsafe(name: str) -> str:
    """Return why a member's name must not be trusted, or an empty string."""
    parts = name.replace("\\", "/").split("/")
    leads_out = ".." in parts or (not parts[0] and len(parts) > 1) or parts[0].endswith(":")
    return "its path leads out of the archive" if leads_out else ""


def _check_ratio(path: Path, unpacked: int, packed: int) -> None:
    if unpacked > max(RATIO_FLOOR, MAX_RATIO * packed):
        raise UserError(
            f"{path} unpacks to more than {MAX_RATIO} times its size, which images do not; if you trust it, unpack it "
            "and use the folder as --source (CATAE_SOURCE)"
        )


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn the exceptions of the archive libraries into one line for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is damaged ({str(error) or type(error).__name__}); download or copy it again"
        ) from error
