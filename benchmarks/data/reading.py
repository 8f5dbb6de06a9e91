"""How fast a source is read: catae's store, cold and warm, against torchvision's ImageFolder through a DataLoader.

    python benchmarks/data/reading.py ../shared/data/cats.zip

Both sides use as many processes, and end with every picture having been in this process once as numbers: ImageFolder
over the unpacked files with `ToTensor` and `Normalize`, the store over the archive itself, decoded, hashed, searched
for copies, and written to the disk. Runs alternate; what is printed are medians of the repeats, and their range.
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

from catae.data import ingest
from catae.system import hardware


def image_folder(folder: Path, workers: int) -> int:
    """Reads every picture as people do; gives how many."""
    transform = Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    loader = DataLoader(ImageFolder(str(folder), transform), 64, num_workers=workers)
    return sum(len(batch) for batch, _ in loader)


def cold(archive: Path, cache: Path) -> int:
    """Reads an archive into an empty cache; gives the count of pictures."""
    return len(ingest.read(str(archive), cache)[0])


def decoded(archive: Path) -> int:
    """Decodes an archive and keeps nothing; gives the count of pictures."""
    pictures = ingest._pictures(str(archive), 64, ingest.DataReport(str(archive), 64))
    return sum(1 for _ in ingest._decoded(pictures, 64))


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
    times: dict[str, list[float]] = {"ImageFolder": [], "decoding alone": [], "store, cold": [], "store, warm": []}
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch, "unpacked")
        with zipfile.ZipFile(options.archive) as archive:
            archive.extractall(unpacked)
        count = sum(path.is_file() for path in unpacked.rglob("*"))
        for repeat in range(options.repeats):
            cache = Path(scratch, f"cache-{repeat}")
            times["ImageFolder"].append(timed(lambda: image_folder(unpacked, workers), count))
            times["decoding alone"].append(timed(lambda: decoded(options.archive), count))
            times["store, cold"].append(timed(lambda cache=cache: cold(options.archive, cache), count))  # type: ignore[misc]
            times["store, warm"].append(timed(lambda cache=cache: cold(options.archive, cache), count))  # type: ignore[misc]
    base = statistics.median(times["ImageFolder"])
    about = hardware.describe()
    print(
        f"{count:,} pictures, {workers} processes, {about['cpu']}, torch {torch.__version__}, "
        f"{options.repeats} repeats\n"
    )
    print("| | median, s | range, s | as fast as ImageFolder |\n|---|---|---|---|")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {middle:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {base / middle:.1f} times |")


if __name__ == "__main__":
    main()
