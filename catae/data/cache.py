"""The image sets that earlier runs have left: what is there, what is in use, and what can go."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from catae.data.image_store import INDEX, REPORT
from catae.system import files


@dataclass(frozen=True)
class Cached:
    """A set in the cache.

    Attributes:
        path: its folder.
        source: what it was read from.
        pictures: how many it holds.
        size_bytes: what it takes on the disk.
        used: when it was last of use, in seconds since 1970.
    """

    path: Path
    source: str
    pictures: int
    size_bytes: int
    used: float


def sets(cache: Path) -> list[Cached]:
    """The sets in the folder `cache`, the one that was used last at the end."""
    found = []
    for index in cache.glob(f"*/{INDEX}"):
        report = files.read_json(index.parent / REPORT)
        size = sum(file.stat().st_size for file in index.parent.iterdir())
        found.append(Cached(index.parent, report["source"], report["pictures"], size, index.stat().st_mtime))
    return sorted(found, key=lambda cached: (cached.used, cached.path))


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Keeps the set in the folder `path` from being removed; a process that is killed doesn't keep it longer."""
    with (path / INDEX).open("rb") as index:
        fcntl.flock(index, fcntl.LOCK_SH)
        yield


def remove(cached: Cached) -> bool:
    """Removes a set, unless a run uses it; tells whether it has gone."""
    with (cached.path / INDEX).open("rb") as index:
        try:
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Out of sight first, and in one step: nobody opens a set of which a half is gone.
        going = cached.path.with_name(f".removing-{cached.path.name}")
        cached.path.replace(going)
    shutil.rmtree(going)
    return True


def trim(cache: Path, limit_bytes: float) -> list[Cached]:
    """Removes the sets that were used the longest ago, until the rest is within the limit; gives those removed."""
    removed: list[Cached] = []
    there = sets(cache)
    total = sum(cached.size_bytes for cached in there)
    for cached in there[:-1]:  # the newest stays, whatever its size
        if total <= limit_bytes:
            break
        if remove(cached):
            removed.append(cached)
            total -= cached.size_bytes
    return removed
