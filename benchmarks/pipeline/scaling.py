"""What a picture costs in training as the pictures, the batch and the code grow: microseconds and resident memory.

    python benchmarks/pipeline/scaling.py --scratch /somewhere/with/room --figure scaling.png

Each point is the default net in a process of its own, on blended drawn cats, after a warm-up on a thousand: an epoch,
or 8,000 pictures from all over the set where it has more. The repeats of a curve alternate. The peak is of the process,
its libraries included. 256,000 pictures need 4 GB of room.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from growth import READ, make_archive, run

from catae.system import hardware

TRAIN = """
import json, sys
from dataclasses import replace
from pathlib import Path
from catae import machine, settings, split, training
from catae.images import ImageStore
machine.use_threads(0)
images = ImageStore(Path(sys.argv[1]))
parts = split.split(images.keys)
state = training.Training(settings.load(json.loads(sys.argv[2])))
few = replace(parts, train=parts.train[:1000], test=parts.test[:64])
state.run_epoch(images, few)
spread = parts.train[:: -(-len(parts.train) // 8000)]
epoch = state.run_epoch(images, replace(parts, train=spread, test=few.test))
print(json.dumps({"microseconds": 1e6 / epoch.images_per_second, "precision": state.precision}))
"""
COUNTS = (1000, 4000, 16_000, 64_000, 256_000)
BATCHES = (16, 32, 64, 128, 256, 512)
LATENTS = (16, 32, 64, 128, 256, 512)


def cost(images: Path, **given: int) -> tuple[float, float]:
    """Microseconds a picture, and MB at the most."""
    said, megabytes = run(TRAIN, images, str(given).replace("'", '"'))
    return said["microseconds"], megabytes


def draw(curves: dict[str, dict[int, tuple[float, float]]], path: Path) -> None:
    """The curves: what a picture costs above, the memory below."""
    figure, panels = plt.subplots(2, len(curves), figsize=(10, 5), sharey="row", layout="constrained")
    for (above, below), (name, curve) in zip(panels.T, curves.items(), strict=True):
        for panel, values in zip((above, below), zip(*curve.values(), strict=True), strict=True):
            panel.plot(list(curve), values, marker="o", color="#31688e")
            panel.set(xscale="log", xticks=list(curve), xticklabels=[f"{x:,}" for x in curve])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
        below.set_xlabel(name)
    for panel, label in zip(panels[:, 0], ("µs a picture", "MB at the most"), strict=True):
        panel.set(ylabel=label, ylim=(0, None))  # of all panels in the row, once all have their curves
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--figure", type=Path, default=Path("scaling.png"))
    options = parser.parse_args()
    points: dict[str, dict[int, list[tuple[float, float]]]] = {"pictures": {}, "batch": {}, "latent_dim": {}}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        sets = {}
        for count in options.counts:
            archive = Path(scratch, f"{count}.zip")
            make_archive(archive, count)
            said, _ = run(READ, archive, Path(scratch, "cache"))
            archive.unlink()
            sets[count] = Path(str(said["path"]))
        middle = sets[sorted(options.counts)[len(options.counts) // 2]]
        for _ in range(options.repeats):
            for batch in BATCHES:
                points["batch"].setdefault(batch, []).append(cost(middle, batch_size=batch))
            for latent_dim in LATENTS:
                points["latent_dim"].setdefault(latent_dim, []).append(cost(middle, latent_dim=latent_dim))
            for count, images in sets.items():
                points["pictures"].setdefault(count, []).append(cost(images))
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, {options.repeats} repeats, medians\n")
    print("| | µs a picture | MB |\n|---|---|---|")
    curves: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in points}
    for name, curve in points.items():
        for x, runs in curve.items():
            curves[name][x] = tuple(statistics.median(values) for values in zip(*runs, strict=True))  # type: ignore[assignment]
            print(f"| {name} {x:,} | {curves[name][x][0]:,.0f} | {curves[name][x][1]:,.0f} |")
    draw(curves, options.figure)


if __name__ == "__main__":
    main()
