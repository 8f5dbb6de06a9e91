"""How fast training is: catae beside a loop as people write it, Lightning's Trainer and pythae's BaseTrainer.

    make bench SOURCE=../shared/data/cats.zip

All train the same net on the same pictures, and alternate, each time in a new process: catae from the archive itself,
with no cache, and the others from the unpacked files. Between them the machine's own ceiling is taken, which is what
a 3x3 convolution of 128 to 256 channels reaches. Prints Markdown: medians, and the range of the repeats in brackets.

    python benchmarks/training.py ../shared/data/cats.zip --losses 20 --seeds 0 1 2

compares what is learned in so many epochs: catae's test L1 with the loop's, seed by seed.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rivals import WAYS
from torch import nn

from catae import drawn, machine, split, store

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
LABELS = {
    "plain": "(a) the loop that people write",
    "lightning": "(b) Lightning's Trainer",
    "pythae": "(c) pythae's BaseTrainer",
    "catae": "(d) catae as it comes",
    "catae fp32": "(e) catae in fp32",
}


def prepared(source: str, scratch: Path) -> dict[str, Any]:
    """The pictures as a folder for those who need one, and the split that all have."""
    folder = scratch / "unpacked"
    if source.startswith("drawn:"):
        (folder / "drawn").mkdir(parents=True)
        for index in range(int(source.removeprefix("drawn:"))):
            Image.fromarray(np.asarray(drawn.draw(index))).save(folder / f"drawn/{index:06}.png")
        source = str(folder)
    else:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
    images, _ = store.read(source, scratch / "cache")
    parts = split.split(images.keys)
    names = {part: [images.names[position] for position in getattr(parts, part)] for part in ("train", "test")}
    return {"source": str(Path(source).resolve()), "folder": str(folder), "workers": 0, "seed": 0, **names}


def trained(way: str, job: dict[str, Any]) -> dict[str, float]:
    """Figures of one training in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "job.json")
        path.write_text(json.dumps({**job, "scratch": scratch}))
        start, log = time.perf_counter(), Path(scratch, "log")
        command = [sys.executable, str(Path(__file__).with_name("rivals.py")), way, str(path)]
        with log.open("w") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=scratch)
        assert process.stdout
        with Peak(process.pid) as peak:
            said = process.stdout.readline()
        seconds = time.perf_counter() - start
        rest, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{way} failed:\n{log.read_text()[-2000:]}")
    times = json.loads(said)
    looped = [end - begin for begin, end in zip(times["begun"], times["looped"], strict=True)]
    whole = [end - begin for begin, end in zip(times["begun"], times["ended"], strict=True)]
    return {
        "images/s in training": len(job["train"]) / statistics.median(looped),
        "images/s all in": len(job["train"]) / statistics.median(whole),
        "s an epoch": statistics.median(whole),
        "s from start to trained": seconds,
        "MB": peak.bytes / 1e6,
        "test L1": json.loads(rest),
    }


class Peak:
    """The largest memory of a process and those that it has started, shared pages counted once, every 0.1 s."""

    def __init__(self, pid: int) -> None:
        self.root, self.bytes, self.over = psutil.Process(pid), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.over.wait(0.1):
            try:
                processes = [self.root, *self.root.children(recursive=True)]
                self.bytes = max(self.bytes, sum(process.memory_full_info().pss for process in processes))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # one has ended in between

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.over.set()
        self.thread.join()


def ceilings() -> dict[str, float]:
    """GFLOP/s of a 3x3 convolution of 128 to 256 channels on 64 maps of 16x16, in the channels-last layout."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[name], found[f"{name}, and back"] = _convolution(dtype)
    return found


def _convolution(dtype: torch.dtype) -> tuple[float, float]:
    """Those of it forward, and of forward and backward together."""
    layer = nn.Conv2d(128, 256, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    maps = torch.randn(64, 128, 16, 16).to(dtype).to(memory_format=torch.channels_last)
    operations = 2 * 64 * 16 * 16 * 9 * 128 * 256 / 1e9
    with torch.inference_mode():
        forward = operations / _seconds(lambda: layer(maps))
    maps.requires_grad_()
    gradient = torch.ones_like(layer(maps))
    return forward, 3 * operations / _seconds(lambda: layer(maps).backward(gradient))


def _seconds(work: Callable[[], object]) -> float:
    """The median of 20, after 3 to get warm."""
    times = []
    for _ in range(23):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def operations_of_a_step() -> float:
    """Floating-point operations of a training step for one picture of 64x64, by the layers' shapes.

    Forward, backward by weights and backward by data cost the same; nobody asks for the pictures' own gradient.
    """
    maps = [3 * 64 * 64, 32 * 32 * 32, 64 * 16 * 16, 128 * 8 * 8, 256 * 4 * 4, 128]
    kernel, next_channels = 16, [32, 64, 128, 256, 128]
    halving = [maps[i] / 4 * kernel * next_channels[i] for i in range(4)] + [maps[4] * next_channels[4]]
    return 2 * (3 * 2 * sum(halving) - halving[0])


def table(figures: dict[str, list[dict[str, float]]], found: list[dict[str, float]]) -> str:
    """One way a line, and what catae's are beside the others'."""
    shown = dict.fromkeys(next(iter(figures.values()))[0], 0) | {"s an epoch": 1, "s from start to trained": 1}
    shown["test L1"] = 4
    middle = {
        way: {name: statistics.median(run[name] for run in runs) for name in shown} for way, runs in figures.items()
    }
    lines = ["| | " + " | ".join(shown) + " | share of the ceiling |", "|---" * (len(shown) + 2) + "|"]
    ceiling = statistics.median(run["bf16"] for run in found)
    back = statistics.median(run["bf16, and back"] for run in found)
    for way, runs in figures.items():
        cells = [_cell([run[name] for run in runs], digits) for name, digits in shown.items()]
        rate = middle[way]["images/s all in"] * operations_of_a_step() / 1e9
        lines.append(f"| {LABELS[way]} | {' | '.join(cells)} | {rate / ceiling:.0%} ({rate / back:.0%}) |")
    lines += ["", "| images/s all in, as many times as | " + " | ".join(LABELS[way] for way in figures) + " |"]
    lines.append("|---" * (len(figures) + 1) + "|")
    for way in figures:
        if way.startswith("catae"):
            ratios = [f"{middle[way]['images/s all in'] / middle[other]['images/s all in']:.2f}" for other in figures]
            lines.append(f"| {LABELS[way]} | {' | '.join(ratios)} |")
    lines += [
        "",
        "Ceilings, GFLOP/s: " + "; ".join(f"{name} {_cell([run[name] for run in found], 0)}" for name in found[0]),
    ]
    lines.append(
        f"A step costs {operations_of_a_step() / 1e9:.3f} GFLOP a picture. Shares are of the convolution in bf16 "
        "forward, and in brackets of its forward and backward together."
    )
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def losses(job: dict[str, Any], seeds: Sequence[int]) -> str:
    """What is learned, seed by seed."""
    lines = ["| seed | (a) | (d) | (e) | (d) / (a) | (e) / (a) |", "|---|---|---|---|---|---|"]
    found = []
    for seed in seeds:
        a, d, e = (trained(way, {**job, "seed": seed})["test L1"] for way in ("plain", "catae", "catae fp32"))
        found.append((a, d, e))
        lines.append(f"| {seed} | {a:.4f} | {d:.4f} | {e:.4f} | {d / a:.4f} | {e / a:.4f} |")
    a, d, e = np.mean(found, axis=0)
    return "\n".join([*lines, f"| mean | {a:.4f} | {d:.4f} | {e:.4f} | {d / a:.4f} | {e / a:.4f} |"])


def head(job: dict[str, Any]) -> str:
    """What was measured, and on what."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return (
        f"{date.today()}, {machine.describe()['cpu']} ({' '.join(flag for flag in FLAGS if flag in flags)}), torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads; {len(job['train']):,} train and {len(job['test']):,} "
        f"test pictures, {job['epochs']} epochs, {job['workers']} workers for (a) and (b)\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a zip archive, or drawn:COUNT")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--losses", type=int, metavar="EPOCHS", help="compare what is learned, and no speed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(machine.usable_cpus())
    there = [way for way in WAYS if way not in ("lightning", "pythae") or importlib.util.find_spec(way)]
    with tempfile.TemporaryDirectory() as scratch:
        job = prepared(options.source, Path(scratch)) | {"epochs": 1}
        speed = {n: trained("plain", {**job, "workers": n})["images/s all in"] for n in (0, machine.usable_cpus())}
        job |= {"workers": max(speed, key=lambda workers: speed[workers]), "epochs": options.losses or options.epochs}
        print(head(job), flush=True)
        if options.losses:
            print(losses(job, options.seeds))
            return
        figures: dict[str, list[dict[str, float]]] = {way: [] for way in there}
        found = []
        for _ in range(options.repeats):
            for way in there:
                found.append(ceilings())
                figures[way].append(trained(way, job))
    print(table(figures, found))
    for way in WAYS.keys() - set(there):
        print(f"\n{LABELS[way]} is not installed: pip install {way}")


if __name__ == "__main__":
    main()
