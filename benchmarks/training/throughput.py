"""Measure training throughput: catae next to the usual PyTorch loop, Lightning's Trainer and pythae's BaseTrainer.

    make bench SOURCE=../shared/data/cats.zip

All train the same network on the same images, and alternate, each time in a new process. catae reads the archive
without a cache, the others read the unpacked files. Between runs, a 3x3 convolution from 128 to 256 channels measures
the peak throughput of the machine. The output is Markdown: medians, with the range of the repeats in brackets.

    python benchmarks/training/throughput.py ../shared/data/cats.zip --losses 20 --seeds 0 1 2

compares the test L1 of catae and of the usual loop instead, by seed and epoch.
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
from rivals import IMPLEMENTATIONS, plain_net
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from catae import settings
from catae.data import ingest, split, synthetic
from catae.system import hardware
from catae.training import trainer

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
LABELS = {
    "plain": "(a) usual PyTorch loop",
    "lightning": "(b) Lightning's Trainer",
    "pythae": "(c) pythae's BaseTrainer",
    "catae": "(d) catae",
    "catae fp32": "(e) catae in fp32",
}


def prepare(source: str, scratch: Path) -> dict[str, Any]:
    """Unpack the images for the implementations that read a folder, and split them for all."""
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


def train(implementation: str, job: dict[str, Any]) -> tuple[dict[str, float], list[float]]:
    """Train in a new process; return its figures, and the test L1 after each epoch that has a checkpoint."""
    # All use the same number of threads, and catae ignores the user's own settings.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    environment["OMP_NUM_THREADS"] = str(hardware.usable_cpus())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "job.json")
        path.write_text(json.dumps({**job, "scratch": scratch}))
        start, log = time.perf_counter(), Path(scratch, "log")
        command = [sys.executable, str(Path(__file__).with_name("rivals.py")), implementation, str(path)]
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=scratch, env=environment
            )
        assert process.stdout
        with PeakMemory(process.pid) as peak:
            first_line = process.stdout.readline()
        seconds = time.perf_counter() - start
        second_line, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{implementation} failed:\n{log.read_text()[-2000:]}")
    times, losses = json.loads(first_line), json.loads(second_line)
    training = [end - start for start, end in zip(times["started"], times["trained"], strict=True)]
    epochs = [end - start for start, end in zip(times["started"], times["ended"], strict=True)]
    figures = {
        "images/s, training steps": len(job["train"]) / statistics.fmean(training),
        "images/s, whole epoch": len(job["train"]) / statistics.median(epochs),
        "s per epoch": statistics.median(epochs),
        "s from start to end": seconds,
        "MB": peak.bytes / 1e6,
        "MB, main process": times["peak"] / 1e6,
        "test L1": losses[-1],
    }
    return figures, losses


class PeakMemory:
    """Sample the memory of a process and its children every 0.5 s, and keep the peak. Shared pages count once."""

    def __init__(self, pid: int) -> None:
        self.root, self.bytes, self.stop = psutil.Process(pid), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.stop.wait(0.5):
            try:
                processes = [self.root, *self.root.children(recursive=True)]
                self.bytes = max(self.bytes, sum(process.memory_full_info().pss for process in processes))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # a process ended in between

    def __enter__(self) -> "PeakMemory":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        self.thread.join()


# Without bfloat16 instructions, its peak takes minutes to measure.
NATIVE = hardware.precision("auto")[0]


def peak_gigaflops(side: int = 16, precisions: Sequence[str] = ("fp32", NATIVE)) -> dict[str, float]:
    """Measure GFLOP/s of a 3x3 convolution from 128 to 256 channels on 64 channels-last maps of `side` x `side`."""
    peak = {}
    for name in dict.fromkeys(precisions):
        dtype = trainer.PRECISIONS[name]
        peak[name], peak[f"{name}, forward + backward"] = _convolution_gigaflops(side, dtype)
    return peak


def _convolution_gigaflops(side: int, dtype: torch.dtype) -> tuple[float, float]:
    """Return GFLOP/s of the forward pass, and of forward and backward passes together."""
    layer = nn.Conv2d(128, 256, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    maps = torch.randn(64, 128, side, side).to(dtype).to(memory_format=torch.channels_last)
    gigaflop = 2 * 64 * side**2 * 9 * 128 * 256 / 1e9
    with torch.inference_mode():
        forward = gigaflop / _median_seconds(lambda: layer(maps))
    maps.requires_grad_()
    gradient = torch.ones_like(layer(maps))
    return forward, 3 * gigaflop / _median_seconds(lambda: layer(maps).backward(gradient))


def _median_seconds(work: Callable[[], object]) -> float:
    """Return the median seconds of 20 calls, after 3 for warm-up."""
    times = []
    for _ in range(23):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def flop_per_image() -> int:
    """Return the floating-point operations of the layers in a training step, for one image, as PyTorch counts them.

    Forward pass, weight gradients and input gradients cost the same. The images themselves need no gradient.
    """
    network = plain_net()
    with FlopCounterMode(display=False) as counter:
        network["decoder"](network["encoder"](torch.zeros(1, 3, 64, 64))).sum().backward()
    return int(counter.get_total_flops())


def throughput_table(figures: dict[str, list[dict[str, float]]], peaks: Mapping[int, list[dict[str, float]]]) -> str:
    """Return a row per implementation, then catae's speed relative to each. `peaks` are by the side of the maps."""
    digits = dict.fromkeys(next(iter(figures.values()))[0], 0) | {"s per epoch": 1, "s from start to end": 1}
    digits["test L1"] = 4
    medians = {
        implementation: {name: statistics.median(run[name] for run in runs) for name in digits}
        for implementation, runs in figures.items()
    }
    lines = ["| | " + " | ".join(digits) + " | share of peak |", "|---" * (len(digits) + 2) + "|"]
    forward = statistics.median(run[NATIVE] for run in peaks[16])
    both = statistics.median(run[f"{NATIVE}, forward + backward"] for run in peaks[16])
    for implementation in IMPLEMENTATIONS:
        if implementation not in figures:
            lines.append(f"| {LABELS[implementation]} | {implementation} is not installed |")
            continue
        runs = figures[implementation]
        cells = [_cell([run[name] for run in runs], places) for name, places in digits.items()]
        rate = medians[implementation]["images/s, whole epoch"] * flop_per_image() / 1e9
        lines.append(f"| {LABELS[implementation]} | {' | '.join(cells)} | {rate / forward:.0%} ({rate / both:.0%}) |")
    lines += ["", "| speed relative to | " + " | ".join(LABELS[implementation] for implementation in figures) + " |"]
    lines.append("|---" * (len(figures) + 1) + "|")
    for implementation in ("catae", "catae fp32"):
        for name, power in (("images/s, whole epoch", 1), ("s from start to end", -1)):
            ratios = [f"{(medians[implementation][name] / medians[other][name]) ** power:.2f}" for other in figures]
            lines.append(f"| {LABELS[implementation]}, {name} | {' | '.join(ratios)} |")
    lines.append("")
    for side, runs in peaks.items():
        cells = [f"{name} {_cell([run[name] for run in runs], 0)}" for name in runs[0]]
        lines.append(f"Peak GFLOP/s on maps of {side}x{side}: {'; '.join(cells)}.")
    lines.append(
        f"A step takes {flop_per_image() / 1e9:.3f} GFLOP per image. The share of peak is that of the whole epoch, "
        f"relative to the forward pass in {NATIVE} on maps of 16x16; in brackets, to forward and backward passes."
    )
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def loss_table(job: dict[str, Any], seeds: Sequence[int]) -> str:
    """Return the test L1 after each epoch and the lowest, by seed."""
    lines = ["| seed | epoch | (a) | (d) | (e) | (d) / (a) | (e) / (a) |", "|---" * 7 + "|"]
    lowest = []
    for seed in seeds:
        curves = np.array([train(name, {**job, "seed": seed})[1] for name in ("plain", "catae", "catae fp32")])
        lowest.append(curves.min(axis=1))
        lines += [_loss_row(seed, epoch, losses) for epoch, losses in enumerate(curves.T, 1)]
        lines.append(_loss_row(seed, "best", lowest[-1]))
    return "\n".join([*lines, _loss_row("mean", "best", np.mean(lowest, axis=0))])


def _loss_row(seed: object, epoch: object, losses: Sequence[float]) -> str:
    a, d, e = losses
    return f"| {seed} | {epoch} | {a:.4f} | {d:.4f} | {e:.4f} | {d / a:.4f} | {e / a:.4f} |"


def conditions(job: dict[str, Any], speeds: Mapping[int, float]) -> str:
    """Describe the machine and the training. `speeds` are images/s of (a), by number of loader workers."""
    tested = ", ".join(f"{workers} workers {speed:,.0f} images/s" for workers, speed in speeds.items())
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return (
        f"{date.today()}, {hardware.describe()['cpu']} ({' '.join(flag for flag in CPU_FLAGS if flag in flags)}), "
        f"torch {torch.__version__}, {hardware.usable_cpus()} threads for all; {len(job['train']):,} train and "
        f"{len(job['test']):,} test images, {job['epochs']} epochs; (a) and (b) load with {job['workers']} workers, "
        f"the fastest in an epoch of (a): {tested}; (d) computes in {hardware.precision('auto')[0]}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a zip archive, or drawn:COUNT")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each implementation (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs per run (default: %(default)s)")
    parser.add_argument("--losses", type=int, metavar="EPOCHS", help="compare test losses instead of throughput")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to compare with --losses (default: 0 1 2)"
    )
    options = parser.parse_args()
    torch.set_num_threads(hardware.usable_cpus())
    installed = [
        name for name in IMPLEMENTATIONS if name not in ("lightning", "pythae") or importlib.util.find_spec(name)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        job = prepare(options.source, Path(scratch)) | {"epochs": 1}
        speeds = {n: train("plain", {**job, "workers": n})[0]["images/s, whole epoch"] for n in (0, 2)}
        job |= {"workers": max(speeds, key=lambda workers: speeds[workers]), "epochs": options.losses or options.epochs}
        print(conditions(job, speeds), flush=True)
        if options.losses:
            print(loss_table(job, options.seeds))
            return
        figures: dict[str, list[dict[str, float]]] = {implementation: [] for implementation in installed}
        peaks: dict[int, list[dict[str, float]]] = {16: [], 32: []}
        for _ in range(options.repeats):
            peaks[32].append(peak_gigaflops(32))
            for implementation in installed:
                peaks[16].append(peak_gigaflops(16))
                figures[implementation].append(train(implementation, job)[0])
    print(f"Medians of {options.repeats} repeats, with their range.\n\n{throughput_table(figures, peaks)}")


if __name__ == "__main__":
    main()
