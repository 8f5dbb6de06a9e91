"""Decoded pictures on disk, read where they lie."""

import json
import os
import weakref
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catae.data.decode import Pixels
from catae.errors import UserError
from catae.system import files

# A set's files. The index comes last when a set is written, and says how large the others are.
PIXELS, DIGESTS, NAMES, GROUPS, REPORT, INDEX = (
    "pixels.u8", "digests.u8", "names.jsonl", "groups.i64", "data.json", "index.json",
)  # fmt: skip
DIGEST = 32  # bytes of SHA-256


class ImageStore:
    """Decoded pictures of one size, in a folder. Nothing of them is in memory until it is asked for.

    Attributes:
        path: the folder.
        size: height and width of the pictures, in pixels.
        digest: what the set holds, in one word: SHA-256 of the pictures' digests, in order.
    """

    def __init__(self, path: Path) -> None:
        """Opens the set in the folder `path`.

        Raises:
            UserError: there is none, or it is not whole.
        """
        index = files.read_json(path / INDEX)
        self.path, self.size, self.digest = path, int(index["size"]), str(index["digest"])
        self._count = int(index["count"])
        for name, expected in ((PIXELS, self._count * self._stride), (DIGESTS, self._count * DIGEST)):
            stored = (path / name).stat().st_size if (path / name).exists() else 0
            if stored != expected:
                raise UserError(f"{path / name} has {stored:,} bytes in place of {expected:,}; delete {path}")

    def __len__(self) -> int:
        return self._count

    @property
    def _stride(self) -> int:
        return self.size**2 * 3

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The pictures' names, each once."""
        with (self.path / NAMES).open(encoding="utf-8") as lines:
            return tuple(json.loads(line) for line in lines)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each picture's pixels, in hexadecimal: copies have the same."""
        data = (self.path / DIGESTS).read_bytes()
        return tuple(data[start : start + DIGEST].hex() for start in range(0, len(data), DIGEST))

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """For each picture the position of the first of its copies, identical, mirrored or near: (pictures,)."""
        return np.fromfile(self.path / GROUPS, np.int64)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What each picture shows, in one word that its copies share: the lowest digest among them.

        A file that is added later changes the key of no picture but those that it is a copy of.
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
        """The pictures at these positions: uint8 (positions, size, size, 3), RGB, a copy.

        They are read where they lie, and not mapped: mapped pages count as this process's memory, and the kernel maps
        so many around each picture that 256,000 of them, taken at random, made 2.8 GB.

        Raises:
            UserError: the file has become shorter, or the disk fails.
        """
        wanted = np.asarray(positions, np.int64)
        taken: Pixels = np.empty((len(wanted), self.size, self.size, 3), np.uint8)
        whole = memoryview(taken.reshape(-1).data)
        edges = (np.flatnonzero(np.diff(wanted) != 1) + 1).tolist()  # neighbours are read at once
        with files.explain_os_errors(self.path / PIXELS):
            for start, stop in pairwise([0, *edges, len(wanted)]):
                place = whole[start * self._stride : stop * self._stride]
                self._read_into(place, int(wanted[start]) * self._stride if stop > start else 0)
        return taken

    def _read_into(self, place: memoryview, offset: int) -> None:
        """Fills `place` with the bytes from `offset` on; the kernel gives at most 2 GB at a time."""
        while len(place):
            count = os.preadv(self._descriptor, [place], offset)
            if count == 0:
                raise UserError(f"{self.path / PIXELS} is not whole any more; delete {self.path}, and run again")
            place, offset = place[count:], offset + count
