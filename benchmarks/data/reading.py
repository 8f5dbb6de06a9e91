"""Compare the time to read a source with catae, cold and warm, and with torchvision's ImageFolder and a DataLoader.

    python benchmarks/data/reading.py ../shared/data/cats.zip

Both use the same number of processes, and every image passes through this process once as numbers. ImageFolder reads
the unpacked files with `ToTensor` and `Normalize`. catae reads the archive, decodes, hashes, searches for duplicates,
and writes to disk. Runs alternate; the table has the median and the range of the repeats.
"""

import argparse
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor

from catae.data import ingest, sources
from catae.system import hardware


def image_folder(folder: Path, workers: int) -> int:
    """Read every image with ImageFolder; return their number."""
    transform = Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    loader = DataLoader(ImageFolder(str(folder), transform), 64, num_workers=workers)
    return sum(len(batch) for batch, _ in loader)


def ingested(archive: Path, cache: Path) -> int:
    """Read an archive into the cache, or from it; return the number of images."""
    return len(ingest.read(str(archive), cache)[0])


def decoded(archive: Path) -> int:
    """Decode an archive without storing it; return the number of images."""
    images = ingest._images(sources.entries(str(archive), 64), ingest.DataReport(str(archive), 64))
    return sum(1 for _ in ingest._decode(images, 64))


def timed(work: Callable[[], int], expected: int) -> float:
    start = time.perf_counter()
    assert work() == expected
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    workers = hardware.usable_cpus()
    times: dict[str, list[float]] = {"ImageFolder": [], "decoding only": [], "catae, cold": [], "catae, warm": []}
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch, "unpacked")
        with zipfile.ZipFile(options.archive) as archive:
            archive.extractall(unpacked)
        count = sum(path.is_file() for path in unpacked.rglob("*"))
        for repeat in range(options.repeats):
            cache = Path(scratch, f"cache-{repeat}")
            times["ImageFolder"].append(timed(lambda: image_folder(unpacked, workers), count))
            times["decoding only"].append(timed(lambda: decoded(options.archive), count))
            times["catae, cold"].append(timed(lambda cache=cache: ingested(options.archive, cache), count))  # type: ignore[misc]
            times["catae, warm"].append(timed(lambda cache=cache: ingested(options.archive, cache), count))  # type: ignore[misc]
    base = statistics.median(times["ImageFolder"])
    machine = hardware.describe()
    print(
        f"{count:,} images, {workers} processes, {machine['cpu']}, torch {torch.__version__}, "
        f"{options.repeats} repeats\n"
    )
    print("| | median, s | range, s | speed relative to ImageFolder |\n|---|---|---|---|")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {base / median:.1f} times |")


if __name__ == "__main__":
    main()
