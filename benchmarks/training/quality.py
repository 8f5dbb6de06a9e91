"""Time to quality: how soon the default net is where the recipe's plain net stops by itself.

    python benchmarks/training/quality.py ../shared/data/cats.zip

The plain net is trained in float32 from PyTorch's first weights, by catae's own fast loop, until its test loss hardly
decreases; the default one until its test loss is as low. Both are looked at every 3 seconds, and after each epoch. Each
is a process of its own, and its time runs from the process's start: imports, reading the pictures anew, copies and
split, first weights, all epochs and all looks, of 0.4 s, are in it.
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

LOOKS = {"checkpoint_minutes": 3 / 60}  # training saves its state so often, and here it is looked at
NETS: dict[str, dict[str, Any]] = {"plain": PLAIN | LOOKS | {"precision": "fp32"}, "default": LOOKS}


class Reached(Exception):
    """The test loss is as low as was asked for."""


def learn(net: str, source: str, seed: int, until: float, started: float) -> None:
    """Trains, and prints a line of JSON for each look: seconds since `started`, epochs, and the test loss."""
    resolved = settings.load(NETS[net] | {"seed": seed})
    hardware.use_threads(resolved.threads)
    with tempfile.TemporaryDirectory() as scratch:
        images, _ = ingest.read(source, Path(scratch, "cache"))
        parts = split.split(images.keys, seed=seed)
        state = trainer.Training(resolved)
        if resolved.init == "pca":
            state.start_linear(images, parts.train)

        def look() -> None:
            loss = trainer.evaluate(state.judged, loader.ordered_loader(images, parts.test), state.dtype)
            epochs = state.epoch + state.under_way.pictures / len(parts.train)
            print(json.dumps({"seconds": time.time() - started, "epochs": epochs, "loss": loss}), flush=True)
            state.model.train()
            if loss <= until:
                raise Reached

        try:
            while not state.reason_to_stop:
                state.run_epoch(images, parts, look)
                look()
        except Reached:
            return


def curve(net: str, options: argparse.Namespace, until: float) -> list[dict[str, float]]:
    """Seconds, epochs and test loss at each look, in a process of its own."""
    command = [sys.executable, __file__, options.source, "--seed", str(options.seed), "--net", net]
    command += ["--until", str(until), "--started", str(time.time())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="as for catae train --source")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("--net", "--until", "--started"):  # of the processes that this one starts
        parser.add_argument(name, type=str if name == "--net" else float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.net:
        learn(options.net, options.source, options.seed, options.until, options.started)
        return
    plain = curve("plain", options, until=0)
    best = min(plain, key=lambda look: look["loss"])
    *_, soon = curve("default", options, until=best["loss"])
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, {options.source}, seed {options.seed}\n")
    print("| net | epochs | test L1 | seconds until then |\n|---|---|---|---|")
    for net, look in (("plain, float32", best), ("default", soon)):
        print(f"| {net} | {look['epochs']:.2f} | {look['loss']:.4f} | {look['seconds']:,.0f} |")
    print(f"\nThe plain net stopped by itself after {plain[-1]['epochs']:.0f} epochs.")
    print(f"{best['seconds'] / soon['seconds']:.1f} times as soon.")


if __name__ == "__main__":
    main()
