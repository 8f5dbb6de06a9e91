"""How fast training is: catae beside a loop as people write it, Lightning's Trainer and pythae's BaseTrainer.

    make bench SOURCE=../shared/data/cats.zip

All train the same net on the same pictures, and alternate, each time in a new process: catae from the archive itself,
with no cache, and the others from the unpacked files. Between them the machine's own ceiling is taken, which is what
a 3x3 convolution of 128 to 256 channels reaches. Prints Markdown: medians, and the range of the repeats in brackets.

    python benchmarks/training/throughput.py ../shared/data/cats.zip --losses 20 --seeds 0 1 2

compares what is learned in so many epochs: catae's test L1 with the loop's, seed by seed and epoch by epoch.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rivals import WAYS, plain_net
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from catae import settings
from catae.data import ingest, split, synthetic
from catae.system import hardware

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
            Image.fromarray(np.asarray(synthetic.draw(index))).save(folder / f"drawn/{index:06}.png")
        source = str(folder)
    else:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)
    images, _ = ingest.read(source, scratch / "cache")
    parts = split.split(images.keys)
    names = {part: [images.names[position] for position in getattr(parts, part)] for part in ("train", "test")}
    return {"source": str(Path(source).resolve()), "folder": str(folder), "workers": 0, "seed": 0, **names}


def trained(way: str, job: dict[str, Any]) -> tuple[dict[str, float], list[float]]:
    """Figures of one training in a process of its own, and its test L1 after each epoch whose state it has kept."""
    # The same threads for all, and catae without the settings of whoever measures.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    environment["OMP_NUM_THREADS"] = str(hardware.usable_cpus())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "job.json")
        path.write_text(json.dumps({**job, "scratch": scratch}))
        start, log = time.perf_counter(), Path(scratch, "log")
        command = [sys.executable, str(Path(__file__).with_name("rivals.py")), way, str(path)]
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=scratch, env=environment
            )
        assert process.stdout
        with Peak(process.pid) as peak:
            said = process.stdout.readline()
        seconds = time.perf_counter() - start
        rest, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{way} failed:\n{log.read_text()[-2000:]}")
    times, losses = json.loads(said), json.loads(rest)
    looped = [end - begin for begin, end in zip(times["begun"], times["looped"], strict=True)]
    whole = [end - begin for begin, end in zip(times["begun"], times["ended"], strict=True)]
    figures = {
        "images/s in training": len(job["train"]) / statistics.fmean(looped),
        "images/s all in": len(job["train"]) / statistics.median(whole),
        "s an epoch": statistics.median(whole),
        "s from start to trained": seconds,
        "MB": peak.bytes / 1e6,
        "MB, its own process": times["peak"] / 1e6,
        "test L1": losses[-1],
    }
    return figures, losses


class Peak:
    """The largest memory of a process and those that it has started, shared pages counted once, every 0.5 s."""

    def __init__(self, pid: int) -> None:
        self.root, self.bytes, self.over = psutil.Process(pid), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.over.wait(0.5):
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


def ceilings(side: int = 16) -> dict[str, float]:
    """GFLOP/s of a 3x3 convolution of 128 to 256 channels on 64 maps of so many pixels square, channels-last."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[name], found[f"{name}, and back"] = _convolution(side, dtype)
    return found


def _convolution(side: int, dtype: torch.dtype) -> tuple[float, float]:
    """Those of it forward, and of forward and backward together."""
    layer = nn.Conv2d(128, 256, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    maps = torch.randn(64, 128, side, side).to(dtype).to(memory_format=torch.channels_last)
    operations = 2 * 64 * side**2 * 9 * 128 * 256 / 1e9
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


def operations_of_a_step() -> int:
    """Floating-point operations of the layers in a training step, for one picture, as PyTorch counts them.

    Forward, backward by weights and backward by data cost the same; nobody asks for the pictures' own gradient.
    """
    net = plain_net()
    with FlopCounterMode(display=False) as counter:
        net["decoder"](net["encoder"](torch.zeros(1, 3, 64, 64))).sum().backward()
    return int(counter.get_total_flops())


def table(figures: dict[str, list[dict[str, float]]], found: Mapping[int, list[dict[str, float]]]) -> str:
    """One way a line, and what catae's are beside the others'; `found` has the ceilings by the side of the maps."""
    shown = dict.fromkeys(next(iter(figures.values()))[0], 0) | {"s an epoch": 1, "s from start to trained": 1}
    shown["test L1"] = 4
    middle = {
        way: {name: statistics.median(run[name] for run in runs) for name in shown} for way, runs in figures.items()
    }
    lines = ["| | " + " | ".join(shown) + " | share of the ceiling |", "|---" * (len(shown) + 2) + "|"]
    ceiling = statistics.median(run["bf16"] for run in found[16])
    back = statistics.median(run["bf16, and back"] for run in found[16])
    for way in WAYS:
        if way not in figures:
            lines.append(f"| {LABELS[way]} | {way} is not installed |")
            continue
        runs = figures[way]
        cells = [_cell([run[name] for run in runs], digits) for name, digits in shown.items()]
        rate = middle[way]["images/s all in"] * operations_of_a_step() / 1e9
        lines.append(f"| {LABELS[way]} | {' | '.join(cells)} | {rate / ceiling:.0%} ({rate / back:.0%}) |")
    lines += ["", "| as many times as fast as | " + " | ".join(LABELS[way] for way in figures) + " |"]
    lines.append("|---" * (len(figures) + 1) + "|")
    for way in ("catae", "catae fp32"):
        for name, power in (("images/s all in", 1), ("s from start to trained", -1)):
            ratios = [f"{(middle[way][name] / middle[other][name]) ** power:.2f}" for other in figures]
            lines.append(f"| {LABELS[way]}, by {name} | {' | '.join(ratios)} |")
    lines.append("")
    for side, runs in found.items():
        cells = [f"{name} {_cell([run[name] for run in runs], 0)}" for name in runs[0]]
        lines.append(f"Ceilings on maps of {side}x{side}, GFLOP/s: {'; '.join(cells)}.")
    lines.append(
        f"A step costs {operations_of_a_step() / 1e9:.3f} GFLOP a picture. Shares are of images/s all in, and of "
        "the convolution on 16x16 in bf16 forward; in brackets, of its forward and backward together."
    )
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def losses(job: dict[str, Any], seeds: Sequence[int]) -> str:
    """What is learned, seed by seed: the test L1 after each epoch, and the lowest."""
    lines = ["| seed | epoch | (a) | (d) | (e) | (d) / (a) | (e) / (a) |", "|---" * 7 + "|"]
    lowest = []
    for seed in seeds:
        curves = np.array([trained(way, {**job, "seed": seed})[1] for way in ("plain", "catae", "catae fp32")])
        lowest.append(curves.min(axis=1))
        lines += [_compared(seed, number, after) for number, after in enumerate(curves.T, 1)]
        lines.append(_compared(seed, "best", lowest[-1]))
    return "\n".join([*lines, _compared("mean", "best", np.mean(lowest, axis=0))])


def _compared(seed: object, epoch: object, after: Sequence[float]) -> str:
    a, d, e = after
    return f"| {seed} | {epoch} | {a:.4f} | {d:.4f} | {e:.4f} | {d / a:.4f} | {e / a:.4f} |"


def head(job: dict[str, Any], speed: Mapping[int, float]) -> str:
    """What was measured, and on what; `speed` has images/s of (a) by how many workers load."""
    tried = ", ".join(f"{workers} workers {rate:,.0f} images/s" for workers, rate in speed.items())
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return (
        f"{date.today()}, {hardware.describe()['cpu']} ({' '.join(flag for flag in FLAGS if flag in flags)}), torch "
        f"{torch.__version__}, {hardware.usable_cpus()} threads for all; {len(job['train']):,} train and "
        f"{len(job['test']):,} test pictures, {job['epochs']} epochs; {job['workers']} workers load for (a) and (b), "
        f"by an epoch of (a) with each: {tried}; (d) computes in {hardware.precision('auto')[0]}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a zip archive, or drawn:COUNT")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--losses", type=int, metavar="EPOCHS", help="compare what is learned, and no speed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(hardware.usable_cpus())
    there = [way for way in WAYS if way not in ("lightning", "pythae") or importlib.util.find_spec(way)]
    with tempfile.TemporaryDirectory() as scratch:
        job = prepared(options.source, Path(scratch)) | {"epochs": 1}
        speed = {n: trained("plain", {**job, "workers": n})[0]["images/s all in"] for n in (0, 2)}
        job |= {"workers": max(speed, key=lambda workers: speed[workers]), "epochs": options.losses or options.epochs}
        print(head(job, speed), flush=True)
        if options.losses:
            print(losses(job, options.seeds))
            return
        figures: dict[str, list[dict[str, float]]] = {way: [] for way in there}
        found: dict[int, list[dict[str, float]]] = {16: [], 32: []}
        for _ in range(options.repeats):
            found[32].append(ceilings(32))
            for way in there:
                found[16].append(ceilings(16))
                figures[way].append(trained(way, job)[0])
    print(f"Medians of {options.repeats} repeats, and their range.\n\n{table(figures, found)}")


if __name__ == "__main__":
    main()
