"""Reading a source into an ImageStore, once: sets are kept in a cache, each named by its source and how it was read."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from loky import BrokenProcessPool, ProcessPoolExecutor

from catae.data import duplicates, sources, split
from catae.data.decode import Decoded, Rejected, decode_all, decode_plain_jpeg
from catae.data.image_store import DIGESTS, GROUPS, INDEX, NAMES, PIXELS, REPORT, ImageStore
from catae.data.sources import Entry, Listing
from catae.errors import UserError
from catae.system import files, hardware, progress

logger = logging.getLogger(__name__)

FORMAT = 1  # of a set on disk, and of the reading that fills it: one more makes every set anew
CHUNK = 64  # files for a thread or a process at a time
UNDER_WAY = 8  # chunks
INLINE = 4  # chunks to read before other processes are started, which takes as long as 2,000 small pictures
BESIDE = 100  # bytes of a picture in the other files of a set: digest, name, group
READING = ".reading-"  # what the folders begin with that are being filled
SHOWN_GROUPS = 100  # in the report; there may be a million


@dataclass(frozen=True)
class DataReport:
    """What was read from a source, and what was not.

    Attributes:
        files: everything that was found, of whatever kind.
        pictures: what was decoded.
        distinct: of those, how many different pixels.
        mirrored: further pictures that are another's mirror image, or nearly.
        near: further pictures that are nearly another.
        plain_split_leak: share of the test pictures of a plain random split that would have a copy in train.
        groups: names of copies, the largest groups first, 100 at the most.
        group_count: how many groups there are.
        original_sizes: like '640x480', with how many had it.
        modes: Pillow's names of kinds of pixels, with how many had it.
        rejects: name and reason of each file that gave no picture.
        notes: name and note of each picture that was read, but is odd.
        passed_over: names of files that are not meant to be pictures.
    """

    source: str
    image_size: int
    files: int = 0
    pictures: int = 0
    distinct: int = 0
    mirrored: int = 0
    near: int = 0
    plain_split_leak: float = 0.0
    groups: list[list[str]] = field(default_factory=list)
    group_count: int = 0
    original_sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `data.json`."""
        return asdict(self)


def read(
    source: str, cache: Path, size: int = 64, on_reject: Literal["skip", "fail"] = "skip"
) -> tuple[ImageStore, DataReport]:
    """The pictures of `source`, decoded: from the cache where they are, as they are now, or into it.

    A file that gives no picture is left out, and stands in the report with its name and the reason.

    Args:
        source: as `catae.sources.entries` takes it.
        cache: the folder for sets.
        size: height and width of the pictures, in pixels.
        on_reject: 'fail' makes a single file that gives no picture an error.

    Raises:
        UserError: there is no such source, or no picture in it, or more than half of its files give none.
    """
    state = sources.fingerprint(source)
    place = cache / _key(state, size)
    if _is_whole(place):
        logger.info("the pictures of %s are in the cache, in %s, their digests checked", source, place)
    else:
        shutil.rmtree(place, ignore_errors=True)
        with files.explain_os_errors(cache), _folder_to_fill(cache) as folder:
            _build(folder, source, size)
            if sources.fingerprint(source) != state:
                logger.warning("%s has changed while it was read: what was read is used, and not kept", source)
                place = cache / f"{place.name}-{os.getpid()}"
            _put(folder, place)
    os.utime(place / INDEX)  # when it was last of use
    report = DataReport(**files.read_json(place / REPORT))
    _check(report, on_reject)
    return ImageStore(place), replace(report, source=source)


def cached_report(source: str, cache: Path, size: int) -> DataReport | None:
    """Return the report of an image set in the cache; None if the source has not been decoded, or has changed.

    Raises:
        UserError: there is no such source.
    """
    report = cache / _key(sources.fingerprint(source), size) / REPORT
    return DataReport(**files.read_json(report)) if report.is_file() else None


def _key(state: str, size: int) -> str:
    made_by = f"{FORMAT}:{PIL.__version__}"
    return hashlib.sha256(f"{state}:{size}:{made_by}".encode()).hexdigest()[:16]


def _is_whole(place: Path) -> bool:
    """Whether a set is there, as it was written: of its pictures, 64 are looked at."""
    if not place.exists():
        return False
    try:
        images = ImageStore(place)
        few = np.linspace(0, len(images) - 1, min(64, len(images))).astype(np.int64)
        found = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in images.take(few)]
        whole = found == [images.digests[position] for position in few] and (place / REPORT).exists()
    except UserError as error:
        logger.warning("%s; reading the pictures anew", error)
        return False
    if not whole:
        logger.warning("%s is damaged; reading the pictures anew", place)
    return whole


@contextmanager
def _folder_to_fill(cache: Path) -> Iterator[Path]:
    """A new folder in the cache, which goes at the end unless it has been moved; those of killed processes go now."""
    cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with files.locked(cache):
            for left in cache.glob(f"{READING}*"):
                with suppress(BlockingIOError), files.locked(left, wait=False):
                    shutil.rmtree(left)
            temporary = tempfile.TemporaryDirectory(dir=cache, prefix=READING, ignore_cleanup_errors=True)
            folder = Path(held.enter_context(temporary))
            held.enter_context(files.locked(folder))
        yield folder


def _put(folder: Path, place: Path) -> None:
    """Moves a set to its place; where another process was first, its set stays, which is the same."""
    try:
        folder.replace(place)
    except OSError:
        if not _is_whole(place):
            raise


def _build(folder: Path, source: str, size: int) -> None:
    """Writes the set of `source` to `folder`."""
    report = DataReport(source, size)
    modes: Counter[str] = Counter()
    original_sizes: Counter[str] = Counter()
    names: dict[str, int] = {}  # and how often an archive has it
    listing = sources.entries(source, size)
    files.check_free_space(folder, (listing.total or 0) * (size**2 * 3 + BESIDE))
    with (folder / PIXELS).open("wb", 2**20) as pixels, (folder / DIGESTS).open("wb") as digests:
        for result in progress.track(_decoded(_pictures(listing, report), size), "reading pictures", listing.total):
            if isinstance(result, Rejected):
                report.rejects.append({"name": result.name, "reason": result.reason})
                continue
            pixels.write(result.pixels)
            digests.write(result.digest)
            name = _unused(result.name, names)
            modes[result.mode] += 1
            original_sizes[result.original] += 1
            if result.note:
                report.notes.append({"name": name, "note": result.note})
    if not names:
        raise UserError(_nothing_in(source, report))
    with (folder / NAMES).open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(name) + "\n" for name in names)
    hashed = hashlib.sha256((folder / DIGESTS).read_bytes()).hexdigest()
    files.write_json(folder / INDEX, {"size": size, "count": len(names), "digest": hashed})
    _find_copies(ImageStore(folder), report, modes, original_sizes)
    for file in (PIXELS, DIGESTS, NAMES, GROUPS):
        files.sync(folder / file)


def _find_copies(
    images: ImageStore, report: DataReport, modes: Mapping[str, int], original_sizes: Mapping[str, int]
) -> None:
    """Groups the copies of a new set, and writes its report."""
    copies = duplicates.find(images.take, images.digests)
    copies.groups.tofile(images.path / GROUPS)
    members: dict[int, list[str]] = {}
    for position in np.flatnonzero(np.bincount(copies.groups, minlength=len(images))[copies.groups] > 1):
        members.setdefault(int(copies.groups[position]), []).append(images.names[position])
    complete = replace(
        report,
        files=len(images) + len(report.rejects) + len(report.passed_over),
        pictures=len(images),
        distinct=len(images) - copies.identical,
        mirrored=copies.mirrored,
        near=copies.near,
        plain_split_leak=split.random_split_leak(copies.groups),
        groups=sorted(members.values(), key=lambda group: (-len(group), group))[:SHOWN_GROUPS],
        group_count=len(members),
        original_sizes=dict(sorted(original_sizes.items(), key=lambda item: (-item[1], item[0]))),
        modes=dict(sorted(modes.items(), key=lambda item: (-item[1], item[0]))),
    )
    files.write_json(images.path / REPORT, complete.to_dict())


def _pictures(listing: Listing, report: DataReport) -> Iterator[Entry]:
    """What is to be decoded; the rest goes into the report."""
    for entry in listing:
        if entry.refusal:
            report.rejects.append({"name": entry.name, "reason": entry.refusal})
        elif sources.is_picture_name(entry.name):
            yield entry
        else:
            report.passed_over.append(entry.name)


def _decoded(entries: Iterator[Entry], size: int) -> Iterator[Decoded | Rejected]:
    """Decodes on all CPUs, in the order of the entries: plain JPEGs in threads, the rest in processes.

    A few chunks are under way at a time, so that memory doesn't grow with the source.
    """
    chunks = iter(lambda: list(islice(entries, CHUNK)), [])
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(hardware.usable_cpus()))
        processes = _Processes(stack)
        plain: deque[tuple[list[Entry], Future[list[Decoded | None]]]] = deque()
        ready: deque[tuple[list[Decoded | None], Future[list[Decoded | Rejected]]]] = deque()
        for chunk in chain(chunks, [None]):
            if chunk:
                plain.append((chunk, threads.submit(_plain, chunk, size)))
            while plain and (chunk is None or len(plain) > UNDER_WAY):
                entries_of, found = plain.popleft()
                rest = [entry for entry, done in zip(entries_of, found.result(), strict=True) if done is None]
                ready.append((found.result(), processes.submit(rest, size)))
            while ready and (chunk is None or len(ready) > UNDER_WAY):
                done, others = ready.popleft()
                remaining = iter(_result(others))
                yield from (picture or next(remaining) for picture in done)


def _plain(entries: list[Entry], size: int) -> list[Decoded | None]:
    return [decode_plain_jpeg(entry, size) for entry in entries]


class _Processes:
    """Decodes with Pillow: the first few chunks here, the others in processes, which take some time to start."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.chunks = stack, 0
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, entries: list[Entry], size: int) -> Future[list[Decoded | Rejected]]:
        """Has the entries decoded, soon or now."""
        self.chunks += bool(entries)
        if self.pool is None and self.chunks > INLINE:
            # loky's processes are new ones, and don't run the user's script again: a copy of this one could hold a
            # lock of PyTorch's or Prefect's that nobody will release, and those of the standard library need a
            # guarded script.
            self.pool = ProcessPoolExecutor(hardware.usable_cpus())
            self.stack.callback(self.pool.shutdown, kill_workers=True)
        if self.pool is not None and entries:
            submitted: Future[list[Decoded | Rejected]] = self.pool.submit(decode_all, entries, size)
            return submitted
        here: Future[list[Decoded | Rejected]] = Future()
        here.set_result(decode_all(entries, size))
        return here


def _result(future: Future[list[Decoded | Rejected]]) -> list[Decoded | Rejected]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError("a process that decodes pictures was killed, as for want of memory; free some") from error


def _check(report: DataReport, on_reject: Literal["skip", "fail"]) -> None:
    if not report.rejects:
        return
    first = f"{report.rejects[0]['name']}, the first: {report.rejects[0]['reason']}"
    several = f"{report.source}: {len(report.rejects):,} of {report.pictures + len(report.rejects):,} pictures"
    if on_reject == "fail":
        raise UserError(f"{several} can't be read, and CATAE_ON_REJECT is fail; {first}")
    if len(report.rejects) > report.pictures:
        raise UserError(f"{several} can't be read, more than half: is it the right source? {first}")


def _nothing_in(source: str, report: DataReport) -> str:
    if report.rejects:
        first = f"{report.rejects[0]['name']}, the first: {report.rejects[0]['reason']}"
        return f"{source}: none of its {len(report.rejects):,} pictures can be read; {first}"
    others = report.passed_over
    what = f"none of its {len(others):,} files is a picture, {others[0]} for one" if others else "it is empty"
    return f"{source}: {what}; correct --source (CATAE_SOURCE)"


def _unused(name: str, names: dict[str, int]) -> str:
    """`name`, with a number where an archive holds it twice; counts it."""
    unused = name
    while unused in names:
        names[name] += 1
        unused = f"{name}#{names[name]}"
    names[unused] = 1
    return unused
