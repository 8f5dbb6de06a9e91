"""List, protect and evict the image sets in the cache."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from catae.data.image_store import INDEX, REPORT
from catae.system import files


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


def sets(cache: Path) -> list[CachedSet]:
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
    found = sets(cache)
    total = sum(cached.size_bytes for cached in found)
    for cached in found[:-1]:  # always keep the most recently used set
        if total <= limit_bytes:
            break
        if remove(cached):
            evicted.append(cached)
            total -= cached.size_bytes
    return evicted
