"""Measure time to quality: how soon each recipe reaches the best test loss of the plain network, and where it ends.

    python benchmarks/training/quality.py ../shared/data/cats.zip

The plain network is the specification with PyTorch's initialization and no moving average, in catae's own fast loop and
in float32. All three train until early stopping, and are evaluated every 3 seconds and after each epoch. Each runs in a
process of its own, timed from its start. The time includes imports, reading the images without a cache, finding
duplicates, the split, initialization, all epochs, and all evaluations, which take 0.4 s each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rivals import PLAIN

from catae import settings
from catae.data import ingest, loader, split
from catae.system import hardware
from catae.training import trainer

EVALUATE_EVERY = {"checkpoint_minutes": 3 / 60}  # the trainer calls `save` this often, which evaluates here
MODELS: dict[str, dict[str, Any]] = {
    "plain": PLAIN | {"precision": "fp32"}, "spec": {"recipe": "spec"}, "tuned": {"recipe": "tuned"},
}  # fmt: skip


def train(model: str, source: str, seed: int, started: float) -> None:
    """Train, and print a line of JSON per evaluation: seconds since `started`, epochs, and the test loss."""
    resolved = settings.load(MODELS[model] | EVALUATE_EVERY | {"seed": seed})
    hardware.use_threads(resolved.threads)
    with tempfile.TemporaryDirectory() as scratch:
        images, _ = ingest.read(source, Path(scratch, "cache"))
        parts = split.split(images.keys, seed=seed)
        state = trainer.Trainer(resolved)
        if resolved.init == "pca":
            state.start_linear(images, parts.train)

        def evaluate() -> None:
            loss = trainer.evaluate(state.eval_model, loader.ordered_loader(images, parts.test), state.dtype)
            epochs = state.epoch + state.progress.images / len(parts.train)
            print(json.dumps({"seconds": time.time() - started, "epochs": epochs, "loss": loss}), flush=True)
            state.model.train()

        while not state.stop_reason:
            state.run_epoch(images, parts, evaluate)
            evaluate()


def loss_curve(model: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Train in a new process and return the seconds, epochs and test loss of each evaluation."""
    command = [sys.executable, __file__, options.source, "--seed", str(options.seed), "--model", model]
    command += ["--started", str(time.time())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    completed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in completed.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="images, as for catae train --source")
    parser.add_argument("--seed", type=int, default=0, help="of split and training (default: %(default)s)")
    parser.add_argument("--model", help=argparse.SUPPRESS)  # this and the next are for the processes that this starts
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        train(options.model, options.source, options.seed, options.started)
        return
    curves = {model: loss_curve(model, options) for model in MODELS}
    target = min(evaluation["loss"] for evaluation in curves["plain"])
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, {options.source}, seed {options.seed}\n")
    print(f"| model | epochs | seconds | best test L1 | seconds to {target:.4f} | times as fast |")
    print("|---|---|---|---|---|---|")
    first = {
        model: next(each["seconds"] for each in curve if each["loss"] <= target) for model, curve in curves.items()
    }
    for model, curve in curves.items():
        end, best = curve[-1], min(evaluation["loss"] for evaluation in curve)
        print(
            f"| {model} | {end['epochs']:.0f} | {end['seconds']:,.0f} | {best:.4f} | {first[model]:,.0f} "
            f"| {first['plain'] / first[model]:.1f} |"
        )


if __name__ == "__main__":
    main()
