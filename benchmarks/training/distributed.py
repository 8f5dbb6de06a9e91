"""Data-parallel training on this machine: its speed, its agreement with one process, and what adding up costs.

    python benchmarks/training/distributed.py --source cats.zip

One process with all threads and several with their share of them alternate, each time in new processes; the speed is
that of the second epoch, of the first so many pictures. The sum of the gradients is timed by itself for messages of
many sizes. Prints Markdown: medians, and the range of the repeats in brackets.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from catae.data import ingest
from catae.system import hardware

TRAIN = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from catae import machine, ranks, settings, split
from catae.images import ImageStore
from catae.training import Training
images, pictures, out = ImageStore(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
parts = split.split(images.keys)
parts = replace(parts, train=parts.train[:pictures], test=parts.test[:256])
with ranks.joined() as us:
    threads = machine.use_threads(0, us.beside)
    state = Training(settings.load(json.loads(sys.argv[4])), ranks=us)
    state.start_linear(images, parts.train)
    state.load_state_dict(us.told(state.state_dict()))
    epochs = [state.run_epoch(images, parts) for _ in range(2)]
    if us.first:
        torch.save([weight.detach().flatten() for weight in state.model.parameters()], out)
        speed, loss = epochs[-1].images_per_second, epochs[-1].test_loss
        print(json.dumps({"speed": speed, "loss": loss, "threads": threads, "precision": state.precision}))
"""
ADD = """
import json, time
import torch
from catae import ranks
with ranks.joined() as us:
    torch.set_num_threads(1)
    seconds = {}
    for power in range(10, 27, 2):
        gradient = torch.zeros(2**power // 4)
        weight = torch.zeros_like(gradient).requires_grad_()
        weight.grad = gradient
        times = []
        for _ in range(12):
            us.wait()
            begun = time.perf_counter()
            us.all_reduce_gradients([weight], torch.zeros(()))
            times.append(time.perf_counter() - begun)
        seconds[2**power] = sorted(times)[len(times) // 2]
    if us.first:
        print(json.dumps(seconds))
"""


def by(processes: int, script: str, *words: str) -> Any:
    """What a script says that so many processes run; one runs it without torchrun."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    threads = str(max(1, hardware.usable_cpus() // processes))
    # Once in some ten times PyTorch 2.14 aborts a process of short steps at its end: torchrun starts all again then.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--max-restarts", "3"]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "script.py")
        file.write_text(script)
        done = subprocess.run(
            [sys.executable, *([*torchrun, "--nproc-per-node", str(processes)] if processes > 1 else []), file, *words],
            capture_output=True,
            text=True,
            check=False,
            env={"GLOO_SOCKET_IFNAME": loopback, **os.environ, "OMP_NUM_THREADS": threads},
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def shown(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def difference(one: Path, other: Path) -> float:
    """How far two sets of weights are from each other, as a share of the length of the first."""
    first, second = (torch.cat(torch.load(path, weights_only=True)) for path in (one, other))
    return float((second - first).norm() / first.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="drawn:4000")
    parser.add_argument("--pictures", type=int, default=3200, help="train pictures of an epoch")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        images, _ = ingest.read(options.source, Path(scratch, "cache"))
        found: dict[int, list[dict[str, Any]]] = {count: [] for count in options.processes}
        for repeat in range(options.repeats):
            for count in options.processes:
                out = Path(scratch, f"{count}-{repeat}.pt")
                words = [str(images.path), str(options.pictures), str(out), "{}"]
                found[count].append(by(count, TRAIN, *words))
        one = options.processes[0]
        print(
            f"{date.today()}, {hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, {options.repeats} repeats, "
        )
        print(f"{options.pictures:,} train pictures of `{Path(options.source).name}`, batches of 64\n")
        print("| processes | threads each | arithmetic | images/s | test L1 | weights from those of the first |")
        print("|---|---|---|---|---|---|")
        for count, runs in found.items():
            weights = [Path(scratch, f"{each}-0.pt") for each in (one, count)]
            said = runs[0]
            print(
                f"| {count} | {said['threads']} | {said['precision']} | {shown([run['speed'] for run in runs])} "
                f"| {said['loss']:.5f} | {difference(*weights):.1e} |"
            )
    print("\n| bytes | ms to add up | MB/s |\n|---|---|---|")
    for size, seconds in by(max(options.processes), ADD).items():
        print(f"| {int(size):,} | {1e3 * seconds:.3f} | {int(size) / seconds / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
