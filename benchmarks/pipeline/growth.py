"""What reading and training cost as the pictures grow in number: seconds and resident memory.

    python benchmarks/pipeline/growth.py --counts 1000 4000 16000 64000 256000 --scratch /somewhere/with/room

For each count it makes a zip of so many different JPEGs of 64x64 (two drawn cats blended, shifted and relit), reads it
cold and warm, and trains a very small net for an epoch, each in a process of its own, whose peak of resident memory
is taken from the kernel: it counts the mapped part of the store as well. A million pictures need 17 GB of room.
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
from catae import store
start = time.perf_counter()
images, report = store.read(sys.argv[1], Path(sys.argv[2]))
print(json.dumps({"seconds": time.perf_counter() - start, "pictures": len(images), "path": str(images.path)}))
"""
TRAIN = """
import json, sys, time
from pathlib import Path
from catae import settings, split, training
from catae.images import ImageStore
resolved = settings.load({"width": 2, "latent_dim": 8, "max_epochs": 1})
start = time.perf_counter()
images = ImageStore(Path(sys.argv[1]))
parts = split.split(images.keys)
ready = time.perf_counter()
state = training.Training(resolved)
epoch = state.run_epoch(images, parts)
print(json.dumps({"split": ready - start, "seconds": epoch.seconds, "images_per_second": epoch.images_per_second}))
"""
PEAK = "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def make_archive(path: Path, count: int) -> None:
    """A zip of `count` different pictures."""
    random = np.random.default_rng(0)
    cats = np.stack([np.asarray(synthetic.draw(index)) for index in range(500)]).astype(np.float32)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            moved = [
                np.roll(cat, random.integers(-32, 33, 2), (0, 1)) for cat in cats[random.integers(len(cats), size=2)]
            ]
            share, light = random.uniform(0.35, 0.65), random.uniform(0.6, 1.2)
            pixels = ((1 - share) * moved[0] + share * moved[1]) * light
            data = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
            archive.writestr(f"{number:07}.jpg", data.getvalue())


def run(code: str, *arguments: object) -> tuple[dict[str, float], int]:
    """What a new process says, and its peak of resident memory in MB."""
    command = [sys.executable, "-c", code + PEAK, *map(str, arguments)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return json.loads(said[-2]), int(said[-1]) // 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs\n")
    print("| pictures | cold, s | MB | warm, s | MB | split, s | epoch, s | images/s | MB |")
    print("|" + "---|" * 9, flush=True)
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            archive, cache = Path(scratch, "cats.zip"), Path(scratch, "cache")
            make_archive(archive, count)
            cold, cold_mb = run(READ, archive, cache)
            warm, warm_mb = run(READ, archive, cache)
            epoch, epoch_mb = run(TRAIN, cold["path"])
            print(
                f"| {count:,} | {cold['seconds']:.1f} | {cold_mb} | {warm['seconds']:.3f} | {warm_mb} "
                f"| {epoch['split']:.1f} | {epoch['seconds']:.1f} | {epoch['images_per_second']:,.0f} | {epoch_mb} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
