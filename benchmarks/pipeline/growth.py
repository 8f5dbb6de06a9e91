"""Measure time and memory of ingestion and training as the number of images grows.

    python benchmarks/pipeline/growth.py --counts 1000 4000 16000 64000 256000 --scratch DIR

For each count, the script creates a zip of different 64x64 JPEGs: two synthetic cats blended, shifted and relit. It
reads the zip without and with a cache, and trains a very small model for an epoch, each in a process of its own. Peak
resident memory is what the kernel reports, which includes the mapped part of the image store. A million images need
17 GB of disk space in `--scratch`.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from catae.data import synthetic
from catae.system import hardware

READ = """
import json, sys, time
from pathlib import Path
from catae.data import ingest
start = time.perf_counter()
images, report = ingest.read(sys.argv[1], Path(sys.argv[2]))
print(json.dumps({"seconds": time.perf_counter() - start, "images": len(images), "path": str(images.path)}))
"""
TRAIN = """
import json, sys, time
from pathlib import Path
from catae import settings
from catae.data import split
from catae.data.image_store import ImageStore
from catae.training.trainer import Trainer
resolved = settings.load({"width": 2, "latent_dim": 8, "max_epochs": 1})
start = time.perf_counter()
images = ImageStore(Path(sys.argv[1]))
parts = split.split(images.keys)
ready = time.perf_counter()
trainer = Trainer(resolved)
epoch = trainer.run_epoch(images, parts)
print(json.dumps({"split": ready - start, "seconds": epoch.seconds, "images_per_second": epoch.images_per_second}))
"""
PRINT_PEAK = "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def create_archive(path: Path, count: int) -> None:
    """Write a zip of `count` different images."""
    rng = np.random.default_rng(0)
    cats = np.stack([np.asarray(synthetic.draw(index)) for index in range(500)]).astype(np.float32)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            shifted = [np.roll(cat, rng.integers(-32, 33, 2), (0, 1)) for cat in cats[rng.integers(len(cats), size=2)]]
            weight, brightness = rng.uniform(0.35, 0.65), rng.uniform(0.6, 1.2)
            pixels = ((1 - weight) * shifted[0] + weight * shifted[1]) * brightness
            data = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
            archive.writestr(f"{number:07}.jpg", data.getvalue())


def run_script(script: str, *arguments: object) -> tuple[dict[str, float], int]:
    """Run a script in a new process; return the JSON of its last line, and its peak resident memory in MB."""
    command = [sys.executable, "-c", script + PRINT_PEAK, *map(str, arguments)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return json.loads(lines[-2]), int(lines[-1]) // 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--counts",
        type=int,
        nargs="+",
        default=[1000, 4000, 16000],
        help="numbers of images (default: 1000 4000 16000)",
    )
    parser.add_argument("--scratch", type=Path, help="folder with enough disk space (default: the system's)")
    options = parser.parse_args()
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, recipe spec\n")
    print("| images | no cache, s | MB | cached, s | MB | split, s | epoch, s | images/s | MB |")
    print("|" + "---|" * 9, flush=True)
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            archive, cache = Path(scratch, "cats.zip"), Path(scratch, "cache")
            create_archive(archive, count)
            cold, cold_mb = run_script(READ, archive, cache)
            warm, warm_mb = run_script(READ, archive, cache)
            epoch, epoch_mb = run_script(TRAIN, cold["path"])
            print(
                f"| {count:,} | {cold['seconds']:.1f} | {cold_mb} | {warm['seconds']:.3f} | {warm_mb} "
                f"| {epoch['split']:.1f} | {epoch['seconds']:.1f} | {epoch['images_per_second']:,.0f} | {epoch_mb} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
