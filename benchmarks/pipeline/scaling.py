"""Measure the training cost per image as the dataset, the batch and the latent grow: microseconds and peak memory.

    python benchmarks/pipeline/scaling.py --scratch DIR --figure scaling.png

Each point trains the default model in a process of its own, on blended synthetic cats, after a warm-up on 1,000 images.
It trains for an epoch, or on 8,000 images sampled evenly if the dataset is larger. The repeats alternate between the
points. Peak memory is that of the process, including libraries. 256,000 images need 4 GB of disk space in `--scratch`.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from growth import READ, create_archive, run_script

from catae.system import hardware

TRAIN = """
import json, sys
from dataclasses import replace
from pathlib import Path
from catae import settings
from catae.data import split
from catae.data.image_store import ImageStore
from catae.system import hardware
from catae.training.trainer import Trainer
hardware.use_threads(0)
images = ImageStore(Path(sys.argv[1]))
parts = split.split(images.keys)
trainer = Trainer(settings.load(json.loads(sys.argv[2])))
warmup = replace(parts, train=parts.train[:1000], test=parts.test[:64])
trainer.run_epoch(images, warmup)
sample = parts.train[:: -(-len(parts.train) // 8000)]
epoch = trainer.run_epoch(images, replace(parts, train=sample, test=warmup.test))
print(json.dumps({"microseconds": 1e6 / epoch.images_per_second, "precision": trainer.precision}))
"""
COUNTS = (1000, 4000, 16_000, 64_000, 256_000)
BATCH_SIZES = (16, 32, 64, 128, 256, 512)
LATENT_DIMS = (16, 32, 64, 128, 256, 512)


def measure(images: Path, **overrides: int) -> tuple[float, float]:
    """Return microseconds per image and peak memory in MB, with some settings changed."""
    result, megabytes = run_script(TRAIN, images, json.dumps(overrides))
    return result["microseconds"], megabytes


def draw(curves: dict[str, dict[int, tuple[float, float]]], path: Path) -> None:
    """Draw the curves, with time per image above and peak memory below."""
    figure, panels = plt.subplots(2, len(curves), figsize=(10, 5), sharey="row", layout="constrained")
    for (top, bottom), (name, curve) in zip(panels.T, curves.items(), strict=True):
        for panel, values in zip((top, bottom), zip(*curve.values(), strict=True), strict=True):
            panel.plot(list(curve), values, marker="o", color="#31688e")
            panel.set(xscale="log", xticks=list(curve), xticklabels=[f"{x:,}" for x in curve])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
        bottom.set_xlabel(name)
    for panel, label in zip(panels[:, 0], ("µs per image", "peak memory, MB"), strict=True):
        panel.set(ylabel=label, ylim=(0, None))  # sets the shared axis, so only after all curves are drawn
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=COUNTS, help="numbers of images (default: up to 256000)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each point (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder with enough disk space (default: the system's)")
    parser.add_argument(
        "--figure", type=Path, default=Path("scaling.png"), help="where to draw the curves (default: %(default)s)"
    )
    options = parser.parse_args()
    points: dict[str, dict[int, list[tuple[float, float]]]] = {"images": {}, "batch_size": {}, "latent_dim": {}}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        stores = {}
        for count in options.counts:
            archive = Path(scratch, f"{count}.zip")
            create_archive(archive, count)
            result, _ = run_script(READ, archive, Path(scratch, "cache"))
            archive.unlink()
            stores[count] = Path(str(result["path"]))
        middle = stores[sorted(options.counts)[len(options.counts) // 2]]
        for _ in range(options.repeats):
            for batch_size in BATCH_SIZES:
                points["batch_size"].setdefault(batch_size, []).append(measure(middle, batch_size=batch_size))
            for latent_dim in LATENT_DIMS:
                points["latent_dim"].setdefault(latent_dim, []).append(measure(middle, latent_dim=latent_dim))
            for count, images in stores.items():
                points["images"].setdefault(count, []).append(measure(images))
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, medians of {options.repeats}, recipe spec\n")
    print("| | µs per image | peak memory, MB |\n|---|---|---|")
    curves: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in points}
    for name, curve in points.items():
        for x, runs in curve.items():
            curves[name][x] = tuple(statistics.median(values) for values in zip(*runs, strict=True))  # type: ignore[assignment]
            print(f"| {name} {x:,} | {curves[name][x][0]:,.0f} | {curves[name][x][1]:,.0f} |")
    draw(curves, options.figure)


if __name__ == "__main__":
    main()
