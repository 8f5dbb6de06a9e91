"""Measure how fast a source is read: catae's image store against torchvision's ImageFolder with a DataLoader.

    python benchmarks/data/reading.py ../shared/data/cats.zip

Both use the same number of processes and end with every image decoded in this process. ImageFolder reads the unpacked
files, with `ToTensor` and `Normalize`. The store reads the archive, decodes and hashes the images, finds duplicates,
and writes to disk. Runs alternate. The output is medians of the repeats, with their range.
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


def read_image_folder(folder: Path, workers: int) -> int:
    """Read every image with ImageFolder and return the number of images."""
    transform = Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    loader = DataLoader(ImageFolder(str(folder), transform), 64, num_workers=workers)
    return sum(len(batch) for batch, _ in loader)


def read_store(archive: Path, cache: Path) -> int:
    """Read an archive into an image store, or open it from the cache, and return the number of images."""
    return len(ingest.read(str(archive), cache)[0])


def decode_archive(archive: Path) -> int:
    """Decode an archive without storing anything and return the number of images."""
    entries = ingest._images(sources.entries(str(archive), 64), ingest.DataReport(str(archive), 64))
    return sum(1 for _ in ingest._decode(entries, 64))


def measure(read: Callable[[], int], expected: int) -> float:
    """Return the seconds that reading takes, and check the number of images."""
    start = time.perf_counter()
    assert read() == expected
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="a zip archive with a folder of images")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    workers = hardware.usable_cpus()
    times: dict[str, list[float]] = {"ImageFolder": [], "decoding only": [], "store, no cache": [], "store, cached": []}
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch, "unpacked")
        with zipfile.ZipFile(options.archive) as archive:
            archive.extractall(unpacked)
        count = sum(path.is_file() for path in unpacked.rglob("*"))
        for repeat in range(options.repeats):
            cache = Path(scratch, f"cache-{repeat}")
            times["ImageFolder"].append(measure(lambda: read_image_folder(unpacked, workers), count))
            times["decoding only"].append(measure(lambda: decode_archive(options.archive), count))
            for name in ("store, no cache", "store, cached"):
                times[name].append(measure(lambda cache=cache: read_store(options.archive, cache), count))  # type: ignore[misc]
    base = statistics.median(times["ImageFolder"])
    print(
        f"{count:,} images, {workers} processes, {hardware.describe()['cpu']}, torch {torch.__version__}, "
        f"{options.repeats} repeats\n"
    )
    print("| | median, s | range, s | speed relative to ImageFolder |\n|---|---|---|---|")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {base / median:.1f} |")


if __name__ == "__main__":
    main()
