"""Profile training layer by layer, and compare each part with the machine's peak throughput.

    python benchmarks/training/layers.py --precision bf16

PyTorch's profiler records steps of the recipe's plain network on batches of 64 random images. Brackets show the share
of peak: a layer's FLOP/s divided by those of a 3x3 convolution from 128 to 256 channels in the same run. The rest of an
epoch, such as loading and evaluation, is timed on synthetic cats.
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
from throughput import NATIVE, peak_gigaflops
from torch import nn
from torch.autograd.function import Function
from torch.profiler import ProfilerActivity, profile

from catae import settings
from catae.data import ingest, loader, split
from catae.model import layers as model_layers
from catae.model.autoencoder import convolutions
from catae.system import hardware
from catae.training import checkpoint, tensorboard, trainer

STEPS, BATCH, SYNTHETIC = 20, 64, 1000
# The autograd functions of the model's layers appear in the profile under their class names.
FUNCTIONS = tuple(
    name
    for name, value in vars(model_layers).items()
    if isinstance(value, type) and issubclass(value, Function) and value is not Function
)
FORWARD = (*FUNCTIONS, "aten::linear")
BACKWARD = (*(f"{name}Backward" for name in FUNCTIONS), "AddmmBackward0")
ENGINE_PREFIX = "autograd::engine::evaluate_function: "
# What else runs in a step, by prefixes of the events' names. Everything unmatched is the loss and its tanh.
OTHERS = {
    "ReLU, forward": ("aten::relu",),
    "ReLU, backward": ("ReluBackward0",),
    "weights to bf16, gradients to fp32": ("aten::to", "ToCopyBackward0", "torch::autograd::AccumulateGrad"),
    "Adam": ("Optimizer.",),
}


def run_steps(state: trainer.Trainer) -> list[float]:
    """Take training steps and return the seconds of each."""
    batch = (torch.rand(BATCH, 3, 64, 64) * 2 - 1).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.step(state.model, batch, state.optimizer, state.dtype)
        seconds.append(time.perf_counter() - start)
    return seconds


def time_by_part(events: Any, layer_count: int) -> dict[tuple[str, str], float]:
    """Return the milliseconds per step for each (layer or other work, part of it)."""
    times: dict[tuple[str, str], float] = defaultdict(float)
    forward = backward = 0
    for event in sorted((event for event in events if event.cpu_parent is None), key=lambda e: e.time_range.start):
        name = event.name.removeprefix(ENGINE_PREFIX)
        if name in FORWARD:
            times[str(forward % layer_count), "forward"] += event.cpu_time_total
            forward += 1
        elif name in BACKWARD:
            for operation in event.cpu_children[0].cpu_children:
                part = backward_part(operation)
                times[str(layer_count - 1 - backward % layer_count), part] += operation.cpu_time_total
            backward += 1
        else:
            other = next((label for label, names in OTHERS.items() if name.startswith(names)), "tanh and loss")
            times[other, ""] += event.cpu_time_total
    return {key: microseconds / STEPS / 1000 for key, microseconds in times.items()}


def backward_part(operation: Any) -> str:
    """Return which gradient an operation of a layer's backward pass computes."""
    if operation.name == "aten::sum":
        return "bias gradient"
    is_input_gradient = operation.name in ("aten::conv2d", "aten::conv_transpose2d") or (
        operation.name == "aten::mm" and operation.input_shapes[0][0] == BATCH
    )
    return "input gradient" if is_input_gradient else "weight gradient"


def gigaflops(layer: nn.Conv2d | nn.ConvTranspose2d, side: int) -> float:
    """Return the GFLOP of a layer in one direction, for a batch. `side` is that of its smaller feature map."""
    return 2 * BATCH * side**2 * layer.weight.numel() / 1e9


def layer_table(layers: list[Any], times: dict[tuple[str, str], float], peak: float, step_seconds: float) -> str:
    """Return the profile of a step as Markdown. `peak` is in GFLOP/s."""
    sides = [32, 16, 8, 4, 1, 1, 4, 8, 16, 32]
    parts = ("forward", "input gradient", "weight gradient", "bias gradient")
    lines = ["| layer | GFLOP | " + ", ms | ".join(parts) + ", ms |", "|" + "---|" * 6]
    for number, (layer, side) in enumerate(zip(layers, sides, strict=True)):
        work, cells = gigaflops(layer, side), []
        for part in parts:
            ms = times.get((str(number), part), 0)
            has_share = part != "bias gradient" and ms > 0.02
            cells.append(f"{ms:.2f} ({work / ms * 1000 / peak:.0%})" if has_share else f"{ms:.2f}")
        label = f"{layer.in_channels} → {layer.out_channels}, {side}x{side}"
        lines.append(f"| {label} | {work:.2f} | {' | '.join(cells)} |")
    lines += ["", "| whole step | ms |", "|---|---|"]
    totals = {part: sum(ms for (_, key), ms in times.items() if key == part) for part in parts}
    lines += [f"| all layers, {part} | {ms:.1f} |" for part, ms in totals.items()]
    lines += [f"| {label} | {times.get((label, ''), 0):.1f} |" for label in (*OTHERS, "tanh and loss")]
    lines.append(f"| total of the profile | {sum(times.values()):.1f} |")
    lines.append(f"| a step without the profiler | {step_seconds * 1000:.1f} |")
    return "\n".join(lines)


def other_work_table(state: trainer.Trainer) -> str:
    """Return the time of an epoch's work other than its steps, as Markdown."""
    with tempfile.TemporaryDirectory() as scratch, tensorboard.open_log(Path(scratch, "events")) as log:
        images, _ = ingest.read(f"drawn:{SYNTHETIC}", Path(scratch, "cache"))
        parts = split.split(images.keys)
        samples = tensorboard.Samples.select(images, parts, state.settings)
        works: dict[str, Callable[[], object]] = {
            f"loading {len(parts.train)} images": lambda: sum(
                len(batch) for batch in loader.train_loader(images, parts.train, BATCH, 0, 1)
            ),
            f"evaluating {len(parts.train)} images": lambda: trainer.evaluate(
                state.model, loader.ordered_loader(images, parts.train), state.dtype
            ),
            "saving a checkpoint": lambda: checkpoint.save(Path(scratch, "last.pt"), state.state_dict()),
            "logging scalars": lambda: log.scalars(1, {"loss/train": 0.1, "loss/test": 0.1}),
            "logging images, every fifth epoch": lambda: samples.write(state.model, 1, log),
        }
        lines = ["| other work | ms |", "|---|---|"]
        lines += [f"| {label} | {_median_seconds(work) * 1000:.1f} |" for label, work in works.items()]
    return "\n".join(lines)


def _median_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default=NATIVE, help="of the layers (default: %(default)s)"
    )
    options = parser.parse_args()
    hardware.use_threads(0)
    state = trainer.Trainer(settings.load(PLAIN | {"precision": options.precision}))
    peak = peak_gigaflops(precisions=[options.precision])[options.precision]
    run_steps(state)
    step_seconds = statistics.median(run_steps(state))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        run_steps(state)
    layers = list(convolutions(state.model))
    cpu, threads = hardware.describe()["cpu"], torch.get_num_threads()
    print(f"{cpu}, {threads} threads, recipe spec, {options.precision}, peak {peak:,.0f} GFLOP/s\n")
    print(layer_table(layers, time_by_part(profiled.events(), len(layers)), peak, step_seconds))
    print(f"\n{other_work_table(state)}")


if __name__ == "__main__":
    main()
