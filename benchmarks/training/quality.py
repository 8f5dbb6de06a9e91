"""Measure time to quality: how soon the default model reaches the best test loss of the recipe's plain network.

    python benchmarks/training/quality.py ../shared/data/cats.zip

The plain network trains in float32 from PyTorch's default initialization, in catae's own fast loop, until early
stopping. The default model trains until its test loss is as low. Both are evaluated every 3 seconds and after each
epoch. Each runs in a process of its own, timed from its start. The time includes imports, reading the images without
a cache, finding duplicates, the split, initialization, all epochs, and all evaluations, which take 0.4 s each.
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
MODELS: dict[str, dict[str, Any]] = {"plain": PLAIN | EVALUATE_EVERY | {"precision": "fp32"}, "default": EVALUATE_EVERY}


class TargetReached(Exception):
    """The test loss is at or below the target."""


def train(model: str, source: str, seed: int, target: float, started: float) -> None:
    """Train, and print a line of JSON per evaluation: seconds since `started`, epochs, and the test loss."""
    resolved = settings.load(MODELS[model] | {"seed": seed})
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
            if loss <= target:
                raise TargetReached

        try:
            while not state.stop_reason:
                state.run_epoch(images, parts, evaluate)
                evaluate()
        except TargetReached:
            return


def loss_curve(model: str, options: argparse.Namespace, target: float) -> list[dict[str, float]]:
    """Train in a new process and return the seconds, epochs and test loss of each evaluation."""
    command = [sys.executable, __file__, options.source, "--seed", str(options.seed), "--model", model]
    command += ["--target", str(target), "--started", str(time.time())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    completed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in completed.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="images, as for catae train --source")
    parser.add_argument("--seed", type=int, default=0, help="of split and training (default: %(default)s)")
    for name in ("--model", "--target", "--started"):  # for the processes that this one starts
        parser.add_argument(name, type=str if name == "--model" else float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        train(options.model, options.source, options.seed, options.target, options.started)
        return
    plain = loss_curve("plain", options, target=0)
    best = min(plain, key=lambda evaluation: evaluation["loss"])
    *_, reached = loss_curve("default", options, target=best["loss"])
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, {options.source}, seed {options.seed}\n")
    print("| model | epochs | test L1 | seconds |\n|---|---|---|---|")
    for model, evaluation in (("plain, float32", best), ("default", reached)):
        print(f"| {model} | {evaluation['epochs']:.2f} | {evaluation['loss']:.4f} | {evaluation['seconds']:,.0f} |")
    print(f"\nEarly stopping ended the plain network's training after {plain[-1]['epochs']:.0f} epochs.")
    print(f"The default model is {best['seconds'] / reached['seconds']:.1f} times as fast to that loss.")


if __name__ == "__main__":
    main()
