"""Time to quality: how soon the default net is where the recipe's plain net stops by itself.

    python benchmarks/quality.py ../shared/data/cats.zip

The plain net is trained in float32 from PyTorch's first weights, by catae's own fast loop, until its test loss hardly
decreases; the default one until its test loss is as low. Each is a process of its own, and its time runs from the
process's start: imports, reading the pictures anew, copies and split, first weights, and all epochs are in it.
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

from catae import machine, settings, split, store, training
from catae.epochs import Epoch

NETS: dict[str, dict[str, Any]] = {"plain": PLAIN | {"precision": "fp32"}, "default": {}}


class Reached(Exception):
    """The test loss is as low as was asked for."""


def learn(net: str, source: str, seed: int, until: float, started: float) -> None:
    """Trains, and prints a line of JSON for each epoch: seconds since `started`, and the test loss."""
    resolved = settings.load(NETS[net] | {"seed": seed})
    machine.use_threads(resolved.threads)

    def tell(epoch: Epoch, most: int) -> None:
        print(json.dumps({"seconds": time.time() - started, "loss": epoch.test_loss}), flush=True)
        if epoch.test_loss <= until:
            raise Reached

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for folder in ("events", "checkpoints"):
            (place / folder).mkdir()
        images, _ = store.read(source, place / "cache")
        parts = split.split(images.keys, seed=seed)
        try:
            training.fit(images, parts, resolved, place / "events", place / "checkpoints", after_epoch=tell)
        except Reached:
            return


def curve(net: str, options: argparse.Namespace, until: float) -> list[dict[str, float]]:
    """Seconds and test loss after each epoch, in a process of its own."""
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
    best = min(plain, key=lambda epoch: epoch["loss"])
    sooner = curve("default", options, until=best["loss"])
    print(f"{machine.describe()['cpu']}, {machine.usable_cpus()} CPUs, {options.source}, seed {options.seed}\n")
    print("| net | epochs | test L1 | seconds until then |\n|---|---|---|---|")
    print(f"| plain, float32 | {plain.index(best) + 1} of {len(plain)} | {best['loss']:.4f} | {best['seconds']:,.0f} |")
    print(f"| default | {len(sooner)} | {sooner[-1]['loss']:.4f} | {sooner[-1]['seconds']:,.0f} |")
    print(f"\n{best['seconds'] / sooner[-1]['seconds']:.1f} times as soon.")


if __name__ == "__main__":
    main()
