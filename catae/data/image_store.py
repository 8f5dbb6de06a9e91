"""Store decoded images on disk, read them by position, and evict the sets that were not used for long."""

import fcntl
import json
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catae.data.decode import Pixels
from catae.errors import UserError
from catae.system import files

# The files of an image set. The index is written last and determines the sizes of the others.
PIXELS, DIGESTS, NAMES, GROUPS, REPORT, INDEX = (
    "pixels.u8", "digests.u8", "names.jsonl", "groups.i64", "data.json", "index.json",
)  # fmt: skip
DIGEST = 32  # bytes of a SHA-256


class ImageStore:
    """A folder of decoded images of one size. Images are read from disk on access.

    Attributes:
        path: the folder.
        size: height and width of the images, in pixels.
        digest: identifies the content: the SHA-256 of the images' digests, in order.
    """

    def __init__(self, path: Path) -> None:
        """Open the image set in the folder `path`.

        Raises:
            UserError: the folder holds no image set, or an incomplete one.
        """
        index = files.read_json(path / INDEX)
        self.path, self.size, self.digest = path, int(index["size"]), str(index["digest"])
        self._count = int(index["count"])
        for name, expected in ((PIXELS, self._count * self._stride), (DIGESTS, self._count * DIGEST)):
            actual = (path / name).stat().st_size if (path / name).exists() else 0
            if actual != expected:
                raise UserError(f"{path / name} has {actual:,} bytes instead of {expected:,}; delete {path}")

    def __len__(self) -> int:
        return self._count

    @property
    def _stride(self) -> int:
        return self.size**2 * 3

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The unique name of each image."""
        with (self.path / NAMES).open(encoding="utf-8") as lines:
            return tuple(json.loads(line) for line in lines)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of each image's pixels, in hexadecimal. Identical images have the same digest."""
        data = (self.path / DIGESTS).read_bytes()
        return tuple(data[start : start + DIGEST].hex() for start in range(0, len(data), DIGEST))

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """For each image the position of its first duplicate, identical, flipped or near, or its own: (images,)."""
        return np.fromfile(self.path / GROUPS, np.int64)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of each image's group of duplicates: the lowest digest in it.

        A file that is added later changes only the keys of its own duplicates.
        """
        lowest: dict[int, str] = {}
        for group, digest in zip(self.groups.tolist(), self.digests, strict=True):
            lowest[group] = min(lowest.get(group, digest), digest)
        return tuple(lowest[group] for group in self.groups.tolist())

    @cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self.path / PIXELS, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def take(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Pixels:
        """Return a copy of the images at these positions: uint8 (positions, size, size, 3), RGB.

        The file is read, not memory-mapped. Mapped pages count as this process's memory, and the kernel maps so many
        around each image that 256,000 images in random order took 2.8 GB.

        Raises:
            UserError: the file was truncated, or the disk fails.
        """
        positions = np.asarray(positions, np.int64)
        images: Pixels = np.empty((len(positions), self.size, self.size, 3), np.uint8)
        buffer = memoryview(images.reshape(-1).data)
        edges = (np.flatnonzero(np.diff(positions) != 1) + 1).tolist()  # one read for each run of neighbours
        with files.explain_os_errors(self.path / PIXELS, action="read"):
            for start, stop in pairwise([0, *edges, len(positions)]):
                part = buffer[start * self._stride : stop * self._stride]
                self._read_into(part, int(positions[start]) * self._stride if stop > start else 0)
        return images

    def _read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset` on. One system call reads at most 2 GB."""
        while len(buffer):
            count = os.preadv(self._descriptor, [buffer], offset)
            if count == 0:
                raise UserError(f"{self.path / PIXELS} was truncated; delete {self.path} and run again")
            buffer, offset = buffer[count:], offset + count


@dataclass(frozen=True)
class CachedSet:
    """An image set in the cache. The attributes are the keys of `catae cache --json`.

    Attributes:
        path: its folder.
        source: the source it was read from.
        pictures: number of images.
        size_bytes: size on disk.
        used: time of last use, in seconds since 1970.
    """

    path: Path
    source: str
    pictures: int
    size_bytes: int
    used: float


def cached_sets(cache: Path) -> list[CachedSet]:
    """Return the image sets in the folder `cache`, the most recently used last."""
    found = []
    for index in cache.glob(f"*/{INDEX}"):
        report = files.read_json(index.parent / REPORT)
        size = sum(file.stat().st_size for file in index.parent.iterdir())
        found.append(CachedSet(index.parent, report["source"], report["pictures"], size, index.stat().st_mtime))
    return sorted(found, key=lambda cached: (cached.used, cached.path))


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Protect the image set in the folder `path` from removal. The protection ends when the process ends."""
    with (path / INDEX).open("rb") as index:
        fcntl.flock(index, fcntl.LOCK_SH)
        yield


def remove(cached: CachedSet) -> bool:
    """Delete an image set unless a run uses it; return whether it was deleted."""
    with (cached.path / INDEX).open("rb") as index:
        try:
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Rename first, in one step, so that no process opens a half-deleted set.
        hidden = cached.path.with_name(f".removing-{cached.path.name}")
        cached.path.replace(hidden)
    shutil.rmtree(hidden)
    return True


def evict(cache: Path, limit_bytes: float) -> list[CachedSet]:
    """Delete the least recently used image sets until the rest fits the limit; return the deleted ones."""
    evicted: list[CachedSet] = []
    found = cached_sets(cache)
    total = sum(cached.size_bytes for cached in found)
    for cached in found[:-1]:  # always keep the most recently used set
        if total <= limit_bytes:
            break
        if remove(cached):
            evicted.append(cached)
            total -= cached.size_bytes
    return evicted
