"""Read a source into an ImageStore, and cache it by the source and how it is read."""

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from loky import BrokenProcessPool, ProcessPoolExecutor

from catae.data import duplicates, sources, split
from catae.data.decode import Decoded, Rejected, decode_all, decode_in_worker, decode_plain_jpeg
from catae.data.image_store import DIGESTS, GROUPS, INDEX, NAMES, PIXELS, REPORT, ImageStore
from catae.data.sources import Entry, Listing
from catae.errors import UserError
from catae.system import files, hardware, progress
from catae.system.text import count

logger = logging.getLogger(__name__)

FORMAT = 2  # of an image set and of how it is read; increase it to invalidate every cached set
CHUNK = 64  # files in one task of a thread or process, at most
CHUNK_BYTES = 2**23  # of a chunk, from which on it is complete
MAX_PENDING = 8  # chunks
MAX_PENDING_BYTES = 2**27  # of all chunks; processes and their queues hold them a second time
INLINE = 4  # chunks to decode before starting processes, which takes as long as decoding 2,000 small images
PRINTED = (".tif", ".tiff")  # decoded in processes only, where what libtiff prints about damage can be captured
METADATA_BYTES = 100  # of an image in the other files of a set: digest, name, group
PARTIAL = ".reading-"  # prefix of folders that are being filled
MAX_GROUPS = 100  # in the report; a set may have a million
MAX_REASONS = 3  # in the log


@dataclass(frozen=True)
class DataReport:
    """What a source contains. The attributes are the keys of `data.json`.

    Attributes:
        source: the source.
        image_size: height and width of the decoded images, in pixels.
        files: number of files of any kind.
        pictures: number of decoded images.
        distinct: number of images with different pixels.
        mirrored: number of further duplicates that are flipped, exactly or nearly.
        near: number of further near duplicates.
        plain_split_leak: fraction of test images with a duplicate in train, if the split were random.
        groups: names of duplicates, the largest groups first, at most 100 groups.
        group_count: number of groups.
        original_sizes: sizes such as '640x480', and the number of images of each.
        modes: Pillow's image modes, and the number of images of each.
        rejects: name and reason of each image that cannot be decoded.
        unsupported: name of each image in a format that is not read, and what to do.
        notes: name and note of each unusual image.
        passed_over: names of files that are not images.
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
    unsupported: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of `data.json`."""
        return asdict(self)


def read(
    source: str, cache: Path, size: int = 64, on_reject: Literal["skip", "fail"] = "skip"
) -> tuple[ImageStore, DataReport]:
    """Return the decoded images of `source`, from the cache if the source has not changed.

    A file that yields no image is skipped; the report has its name and the reason.

    Args:
        source: as in `sources.entries`.
        cache: the folder of image sets.
        size: height and width of the decoded images, in pixels.
        on_reject: 'fail' raises an error if any image cannot be read.

    Raises:
        UserError: the source does not exist or has no images, or more than half of its images cannot be read.
    """
    images, report = examine(source, cache, size)
    check(report, on_reject)
    assert images is not None  # or `check` raises
    return images, report


def examine(source: str, cache: Path, size: int = 64) -> tuple[ImageStore | None, DataReport]:
    """Return what `read` returns, whatever share of the images cannot be read; without any image, there is no store.

    Raises:
        UserError: the source does not exist, or is a damaged archive.
    """
    fingerprint = sources.fingerprint(source)
    path = cache / _key(fingerprint, size)
    if _is_intact(path):
        logger.info("reusing the images of %s in %s; a sample of their digests matches", source, path)
    else:
        shutil.rmtree(path, ignore_errors=True)
        with files.explain_os_errors(cache), _partial_folder(cache) as folder:
            _build(folder, source, size)
            report = DataReport(**files.read_json(folder / REPORT))
            if not report.pictures:
                return None, report
            if sources.fingerprint(source) != fingerprint:
                logger.warning("%s changed while it was read: using the images read, but not for later runs", source)
                path = cache / f"{path.name}-{os.getpid()}"
            _publish(folder, path)
    os.utime(path / INDEX)  # records the last use
    report = DataReport(**files.read_json(path / REPORT))
    return ImageStore(path), replace(report, source=source)


def cached_report(source: str, cache: Path, size: int) -> DataReport | None:
    """Return the report of an image set in the cache; None if the source has not been decoded, or has changed.

    Raises:
        UserError: there is no such source.
    """
    report = cache / _key(sources.fingerprint(source), size) / REPORT
    return DataReport(**files.read_json(report)) if report.is_file() else None


def _key(fingerprint: str, size: int) -> str:
    decoder = f"{FORMAT}:{PIL.__version__}:{sources.PLUGINS}"
    return hashlib.sha256(f"{fingerprint}:{size}:{decoder}".encode()).hexdigest()[:16]


def _is_intact(path: Path) -> bool:
    """Return whether an image set exists and is complete, with the right digests in a sample of 64 images."""
    if not path.exists():
        return False
    try:
        images = ImageStore(path)
        sample = np.linspace(0, len(images) - 1, min(64, len(images))).astype(np.int64)
        digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images.take(sample)]
        intact = digests == [images.digests[position] for position in sample] and (path / REPORT).exists()
    except UserError as error:
        logger.warning("%s; reading the images again", error)
        return False
    if not intact:
        logger.warning("%s is damaged; reading the images again", path)
    return intact


@contextmanager
def _partial_folder(cache: Path) -> Iterator[Path]:
    """Create a folder in the cache and delete it at the end, unless it was moved. Delete those of killed processes."""
    cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with files.locked(cache):
            for partial in cache.glob(f"{PARTIAL}*"):
                with suppress(BlockingIOError), files.locked(partial, wait=False):
                    shutil.rmtree(partial)
            temporary = tempfile.TemporaryDirectory(dir=cache, prefix=PARTIAL, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temporary))
            stack.enter_context(files.locked(folder))
        yield folder


def _publish(folder: Path, path: Path) -> None:
    """Rename a complete image set to `path`, unless another process has already put the same set there."""
    try:
        folder.replace(path)
    except OSError:
        if not _is_intact(path):
            raise


def _build(folder: Path, source: str, size: int) -> None:
    """Write the image set of `source` to `folder`; without images, only its report."""
    report = DataReport(source, size)
    modes: Counter[str] = Counter()
    original_sizes: Counter[str] = Counter()
    names: dict[str, int] = {}  # and how often each occurs in the archive
    listing = sources.entries(source, size)
    files.check_free_space(folder, (listing.total or 0) * (size**2 * 3 + METADATA_BYTES))
    with (folder / PIXELS).open("wb", 2**20) as pixels, (folder / DIGESTS).open("wb") as digests:
        for result in progress.track(_decode(_images(listing, report), size), "decoding images", listing.total):
            if isinstance(result, Rejected):
                report.rejects.append({"name": result.name, "reason": result.reason})
                continue
            pixels.write(result.pixels)
            digests.write(result.digest)
            name = _unique(result.name, names)
            modes[result.mode] += 1
            original_sizes[result.original] += 1
            if result.note:
                report.notes.append({"name": name, "note": result.note})
    if not names:
        files.write_json(folder / REPORT, replace(report, files=_other_files(report)).to_dict())
        return
    with (folder / NAMES).open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(name) + "\n" for name in names)
    hashed = hashlib.sha256((folder / DIGESTS).read_bytes()).hexdigest()
    files.write_json(folder / INDEX, {"size": size, "count": len(names), "digest": hashed})
    _find_duplicates(ImageStore(folder), report, modes, original_sizes)
    for file in (PIXELS, DIGESTS, NAMES, GROUPS):
        files.sync(folder / file)


def _other_files(report: DataReport) -> int:
    """Return the number of files that are not decoded images."""
    return len(report.rejects) + len(report.unsupported) + len(report.passed_over)


def _find_duplicates(
    images: ImageStore, report: DataReport, modes: Mapping[str, int], original_sizes: Mapping[str, int]
) -> None:
    """Group the duplicates of a new image set and write its report."""
    found = duplicates.find(images.take, images.digests)
    found.groups.tofile(images.path / GROUPS)
    members: dict[int, list[str]] = {}
    for position in np.flatnonzero(np.bincount(found.groups, minlength=len(images))[found.groups] > 1):
        members.setdefault(int(found.groups[position]), []).append(images.names[position])
    complete = replace(
        report,
        files=len(images) + _other_files(report),
        pictures=len(images),
        distinct=len(images) - found.identical,
        mirrored=found.flipped,
        near=found.near,
        plain_split_leak=split.random_split_leak(found.groups),
        groups=sorted(members.values(), key=lambda group: (-len(group), group))[:MAX_GROUPS],
        group_count=len(members),
        original_sizes=dict(sorted(original_sizes.items(), key=lambda item: (-item[1], item[0]))),
        modes=dict(sorted(modes.items(), key=lambda item: (-item[1], item[0]))),
    )
    files.write_json(images.path / REPORT, complete.to_dict())


def _images(listing: Listing, report: DataReport) -> Iterator[Entry]:
    """Yield the files to decode, and add the others to the report."""
    for entry in listing:
        if entry.kind == "other":
            report.passed_over.append(entry.name)
        elif entry.kind == "unsupported":
            report.unsupported.append({"name": entry.name, "reason": entry.refusal})
        elif entry.refusal:
            report.rejects.append({"name": entry.name, "reason": entry.refusal})
        else:
            yield entry


def _decode(entries: Iterator[Entry], size: int) -> Iterator[Decoded | Rejected]:
    """Decode on all CPUs and yield in the order of the entries: plain JPEGs in threads, other files in processes.

    At most a few chunks and a few bytes are pending, so that memory grows neither with the source nor with its files.
    """
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(hardware.usable_cpus()))
        processes = _Processes(stack)
        submitted: deque[tuple[list[Entry], float, Future[list[Decoded | None]]]] = deque()
        decoded: deque[tuple[list[Decoded | None], float, Future[list[Decoded | Rejected]]]] = deque()
        pending = 0.0  # bytes
        for chunk, held in chain(_chunks(entries, size), [([], math.inf)]):  # in the end, nothing may be pending
            pending += held
            if chunk:
                submitted.append((chunk, held, threads.submit(_decode_plain, chunk, size)))
            while submitted and (len(submitted) > MAX_PENDING or pending > MAX_PENDING_BYTES):
                chunk, chunk_bytes, future = submitted.popleft()
                rest = [entry for entry, image in zip(chunk, future.result(), strict=True) if image is None]
                decoded.append((future.result(), chunk_bytes, processes.submit(rest, size)))
            while decoded and (len(decoded) > MAX_PENDING or pending > MAX_PENDING_BYTES):
                images, chunk_bytes, future_rest = decoded.popleft()
                pending -= chunk_bytes
                rest_images = iter(_result(future_rest))
                yield from (image or next(rest_images) for image in images)


def _chunks(entries: Iterator[Entry], size: int) -> Iterator[tuple[list[Entry], float]]:
    """Yield the entries in chunks, each with the bytes that its files and images take in memory."""
    chunk: list[Entry] = []
    held = 0
    for entry in entries:
        chunk.append(entry)
        held += entry.held + 3 * size**2
        if len(chunk) == CHUNK or held >= CHUNK_BYTES:
            yield chunk, held
            chunk, held = [], 0
    yield chunk, held


def _decode_plain(entries: list[Entry], size: int) -> list[Decoded | None]:
    return [decode_plain_jpeg(entry, size) for entry in entries]


class _Processes:
    """Decode with Pillow: the first chunks in this process, others and TIFFs in processes, which are slow to start."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.chunks = stack, 0
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, entries: list[Entry], size: int) -> Future[list[Decoded | Rejected]]:
        """Decode the entries in a process, or at once in this one."""
        self.chunks += bool(entries)
        prints = any(entry.name.lower().endswith(PRINTED) for entry in entries)
        if self.pool is None and (prints or self.chunks > INLINE):
            # loky starts fresh processes and does not run the user's script again. A forked process could hold a lock
            # of PyTorch or Prefect that is never released; the standard library's "spawn" needs a guarded script.
            self.pool = ProcessPoolExecutor(hardware.usable_cpus())
            self.stack.callback(self.pool.shutdown, kill_workers=True)
        if self.pool is not None and entries:
            future: Future[list[Decoded | Rejected]] = self.pool.submit(decode_in_worker, entries, size)
            return future
        done: Future[list[Decoded | Rejected]] = Future()
        done.set_result(decode_all(entries, size))
        return done


def _result(future: Future[list[Decoded | Rejected]]) -> list[Decoded | Rejected]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decodes images was killed, probably because memory ran out; free some memory and run again"
        ) from error


def check(report: DataReport, on_reject: Literal["skip", "fail"]) -> None:
    """Check that a source can be trained on.

    Raises:
        UserError: it has no images, more than half of them cannot be read, or one cannot and `on_reject` is 'fail'.
    """
    if not report.pictures:
        raise UserError(f"{report.source}: {_no_images(report)}; correct --source (CATAE_SOURCE)")
    skipped = len(report.rejects) + len(report.unsupported)
    message = (
        f"{report.source}: {skipped:,} of {report.pictures + skipped:,} images cannot be decoded, first "
        f"{_first_skipped(report)}"
    )
    if skipped and on_reject == "fail":
        raise UserError(f"{message}; remove them, or set CATAE_ON_REJECT to skip")
    if skipped > report.pictures:
        raise UserError(f"{message}; check --source (CATAE_SOURCE): more than half is too many")


def describe_skipped(report: DataReport) -> str:
    """Return how many images were skipped and why, in one line; an empty string if none were."""
    reasons = Counter(file["reason"] for file in (*report.rejects, *report.unsupported))
    if not reasons:
        return ""
    shown = [f"{number:,} ({reason})" for reason, number in reasons.most_common(MAX_REASONS)]
    others = len(reasons) - len(shown)
    more = f" and {count(others, 'more reason')}" if others else ""
    return (
        f"{report.source}: skipped {reasons.total():,} of {count(report.pictures + reasons.total(), 'image')}: "
        f"{', '.join(shown)}{more}"
    )


def _no_images(report: DataReport) -> str:
    if skipped := len(report.rejects) + len(report.unsupported):
        return f"none of its {count(skipped, 'image')} can be decoded, first {_first_skipped(report)}"
    if report.passed_over:
        return f"it has {count(len(report.passed_over), 'file')}, such as {report.passed_over[0]}, but no images"
    return "it is empty"


def _first_skipped(report: DataReport) -> str:
    """Return the name and the reason of the first image that cannot be read, of the more frequent group."""
    group = max(report.rejects, report.unsupported, key=len)
    return f"{group[0]['name']}: {group[0]['reason']}" if group else ""


def _unique(name: str, names: dict[str, int]) -> str:
    """Return `name`, numbered if the archive has it more than once, and count it in `names`."""
    unique = name
    while unique in names:
        names[name] += 1
        unique = f"{name}#{names[name]}"
    names[unique] = 1
    return unique
