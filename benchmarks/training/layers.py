"""Where the time of training goes, layer by layer, and what share of the machine's ceiling each part reaches.

    python benchmarks/training/layers.py --precision bf16

PyTorch's profiler goes along with steps of the recipe's plain net on noise, 64 pictures each. A layer's operations,
divided by its time and by what a 3x3 convolution of 128 to 256 channels reaches in the same run, are its share, in
brackets. What an epoch takes besides its steps is timed on drawn cats.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rivals import PLAIN
from throughput import ceilings
from torch import nn
from torch.profiler import ProfilerActivity, profile

from catae import settings
from catae.data import ingest, loader, split
from catae.model.autoencoder import convolutions
from catae.system import hardware
from catae.training import checkpoint, tensorboard, trainer, watch

STEPS, BATCH, DRAWN = 20, 64, 1000
FORWARD = ("_Halve", "aten::linear", "_Double")
BACKWARD = ("_HalveBackward", "AddmmBackward0", "_DoubleBackward")
RETURNING = "autograd::engine::evaluate_function: "
# What else runs in a step, by the beginnings of its names; the rest is the loss, with its tanh.
OTHERS = {
    "ReLU, forward": ("aten::relu",),
    "ReLU, backward": ("ReluBackward0",),
    "weights to bf16, gradients to fp32": ("aten::to", "ToCopyBackward0", "torch::autograd::AccumulateGrad"),
    "Adam": ("Optimizer.",),
}


def steps(state: trainer.Training) -> list[float]:
    """Seconds of each step."""
    batch = (torch.rand(BATCH, 3, 64, 64) * 2 - 1).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.step(state.model, batch, state.optimizer, state.dtype)
        seconds.append(time.perf_counter() - start)
    return seconds


def account(profiled: Any, count: int) -> dict[tuple[str, str], float]:
    """Milliseconds of a step for each (layer or other, part)."""
    times: dict[tuple[str, str], float] = defaultdict(float)
    forward = backward = 0
    for event in sorted((event for event in profiled if event.cpu_parent is None), key=lambda e: e.time_range.start):
        name = event.name.removeprefix(RETURNING)
        if name in FORWARD:
            times[str(forward % count), "forward"] += event.cpu_time_total
            forward += 1
        elif name in BACKWARD:
            for part in event.cpu_children[0].cpu_children:
                times[str(count - 1 - backward % count), direction(part)] += part.cpu_time_total
            backward += 1
        else:
            other = next((label for label, names in OTHERS.items() if name.startswith(names)), "tanh and loss")
            times[other, ""] += event.cpu_time_total
    return {place: microseconds / STEPS / 1000 for place, microseconds in times.items()}


def direction(part: Any) -> str:
    """What an operation of a layer's backward pass is for."""
    if part.name == "aten::sum":
        return "bias"
    by_data = part.name in ("aten::conv2d", "aten::conv_transpose2d") or (
        part.name == "aten::mm" and part.input_shapes[0][0] == BATCH
    )
    return "by data" if by_data else "by weights"


def gigaflops(layer: nn.Conv2d | nn.ConvTranspose2d, side: int) -> float:
    """Operations of a layer in one direction, for a batch; `side` is that of its smaller map."""
    return 2 * BATCH * side**2 * layer.weight.numel() / 1e9


def describe(layers: list[Any], times: dict[tuple[str, str], float], ceiling: float, alone: float) -> str:
    """The account as Markdown."""
    sides = [32, 16, 8, 4, 1, 1, 4, 8, 16, 32]
    parts = ("forward", "by data", "by weights", "bias")
    lines = ["| layer | GFLOP | " + ", ms | ".join(parts) + ", ms |", "|" + "---|" * 6]
    for number, (layer, side) in enumerate(zip(layers, sides, strict=True)):
        work, cells = gigaflops(layer, side), []
        for part in parts:
            ms = times.get((str(number), part), 0)
            counts = part != "bias" and ms > 0.02
            cells.append(f"{ms:.2f} ({work / ms * 1000 / ceiling:.0%})" if counts else f"{ms:.2f}")
        label = f"{layer.in_channels} → {layer.out_channels}, {side}x{side}"
        lines.append(f"| {label} | {work:.2f} | {' | '.join(cells)} |")
    lines += ["", "| the rest of a step | ms |", "|---|---|"]
    whole = {part: sum(ms for (place, at), ms in times.items() if at == part) for part in parts}
    lines += [f"| all layers, {part} | {ms:.1f} |" for part, ms in whole.items()]
    lines += [f"| {label} | {times.get((label, ''), 0):.1f} |" for label in (*OTHERS, "tanh and loss")]
    lines.append(f"| all that was profiled | {sum(times.values()):.1f} |")
    lines.append(f"| a step without the profiler | {alone * 1000:.1f} |")
    return "\n".join(lines)


def besides(state: trainer.Training) -> str:
    """What an epoch takes besides its steps."""
    with tempfile.TemporaryDirectory() as scratch, tensorboard.writing(Path(scratch, "events")) as log:
        images, _ = ingest.read(f"drawn:{DRAWN}", Path(scratch, "cache"))
        parts = split.split(images.keys)
        shown = watch.Watch.of(images, parts, state.settings)
        works: dict[str, Callable[[], object]] = {
            f"loading {len(parts.train)} pictures": lambda: sum(
                len(batch) for batch in loader.train_loader(images, parts.train, BATCH, 0, 1)
            ),
            f"evaluating {len(parts.train)} pictures": lambda: trainer.evaluate(
                state.model, loader.ordered_loader(images, parts.train), state.dtype
            ),
            "a state on the disk": lambda: checkpoint.save(Path(scratch, "last.pt"), state.state_dict()),
            "the scalars of an epoch": lambda: log.scalars(1, {"loss/train": 0.1, "loss/test": 0.1}),
            "the pictures of each fifth": lambda: shown.write(state.model, 1, log),
        }
        lines = ["| besides the steps | ms |", "|---|---|"]
        lines += [f"| {label} | {_median(work) * 1000:.1f} |" for label, work in works.items()]
    return "\n".join(lines)


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    options = parser.parse_args()
    hardware.use_threads(0)
    state = trainer.Training(settings.load(PLAIN | {"precision": options.precision}))
    ceiling = ceilings()[options.precision]
    steps(state)
    alone = statistics.median(steps(state))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        steps(state)
    layers = list(convolutions(state.model))
    cpu, threads = hardware.describe()["cpu"], torch.get_num_threads()
    print(f"{cpu}, {threads} threads, {options.precision}, {ceiling:,.0f} GFLOP/s\n")
    print(describe(layers, account(profiled.events(), len(layers)), ceiling, alone))
    print(f"\n{besides(state)}")


if __name__ == "__main__":
    main()
