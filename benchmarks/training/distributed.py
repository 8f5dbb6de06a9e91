"""Measure data-parallel training on this machine: throughput, agreement with one process, and cost of all-reduce.

    python benchmarks/training/distributed.py --source cats.zip

One process with all threads alternates with several processes that share the threads, each time in new processes. The
throughput is that of the second epoch. A separate script times the all-reduce of messages of 1 KB to 64 MB. The output
is Markdown: medians, with the range of the repeats in brackets.
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
from catae import settings
from catae.data import split
from catae.data.image_store import ImageStore
from catae.system import hardware
from catae.training import distributed
from catae.training.trainer import Trainer
images, count, weights_file = ImageStore(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
parts = split.split(images.keys)
parts = replace(parts, train=parts.train[:count], test=parts.test[:256])
with distributed.init_process_group() as world:
    threads = hardware.use_threads(0, world.local_world_size)
    trainer = Trainer(settings.load(json.loads(sys.argv[4])), world=world)
    trainer.start_linear(images, parts.train)
    trainer.load_state_dict(world.broadcast(trainer.state_dict()))
    epochs = [trainer.run_epoch(images, parts) for _ in range(2)]
    if world.is_main:
        torch.save([weight.detach().flatten() for weight in trainer.model.parameters()], weights_file)
        speed, loss = epochs[-1].images_per_second, epochs[-1].test_loss
        print(json.dumps({"speed": speed, "loss": loss, "threads": threads, "precision": trainer.precision}))
"""
ALL_REDUCE = """
import json, time
import torch
from catae.training import distributed
with distributed.init_process_group() as world:
    torch.set_num_threads(1)
    seconds = {}
    for power in range(10, 27, 2):
        gradient = torch.zeros(2**power // 4)
        weight = torch.zeros_like(gradient).requires_grad_()
        weight.grad = gradient
        times = []
        for _ in range(12):
            world.barrier()
            start = time.perf_counter()
            world.all_reduce_gradients([weight], torch.zeros(()))
            times.append(time.perf_counter() - start)
        seconds[2**power] = sorted(times)[len(times) // 2]
    if world.is_main:
        print(json.dumps(seconds))
"""


def run_script(processes: int, script: str, *arguments: str) -> Any:
    """Run a script in `processes` processes and return the JSON of its last line. One process runs without torchrun."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    threads = str(max(1, hardware.usable_cpus() // processes))
    # About once in ten runs, PyTorch 2.14 aborts a process with short steps at its end. torchrun then restarts all.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--max-restarts", "3"]
    launcher = [*torchrun, "--nproc-per-node", str(processes)] if processes > 1 else []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "script.py")
        file.write_text(script)
        completed = subprocess.run(
            [sys.executable, *launcher, file, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"GLOO_SOCKET_IFNAME": loopback, **os.environ, "OMP_NUM_THREADS": threads},
        )
    if completed.returncode:
        raise SystemExit(completed.stderr)
    return json.loads(completed.stdout.splitlines()[-1])


def median_and_range(values: Sequence[float]) -> str:
    """Return the median, with the range in brackets."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def relative_distance(reference: Path, other: Path) -> float:
    """Return the L2 distance between two files of weights, divided by the norm of the first."""
    first, second = (torch.cat(torch.load(path, weights_only=True)) for path in (reference, other))
    return float((second - first).norm() / first.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="drawn:4000", help="images, as for catae train (default: %(default)s)")
    parser.add_argument("--images", type=int, default=3200, help="train images per epoch (default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes to compare (default: 1 2)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        images, _ = ingest.read(options.source, Path(scratch, "cache"))
        results: dict[int, list[dict[str, Any]]] = {processes: [] for processes in options.processes}
        for repeat in range(options.repeats):
            for processes in options.processes:
                weights_file = Path(scratch, f"{processes}-{repeat}.pt")
                arguments = [str(images.path), str(options.images), str(weights_file), "{}"]
                results[processes].append(run_script(processes, TRAIN, *arguments))
        first = options.processes[0]
        print(
            f"{date.today()}, {hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, {options.repeats} repeats, "
        )
        print(f"{options.images:,} train images of `{Path(options.source).name}`, batches of 64, recipe spec\n")
        print(
            "| processes | threads each | precision | images/s | test L1 | relative distance from the first weights |"
        )
        print("|---|---|---|---|---|---|")
        for processes, runs in results.items():
            distance = relative_distance(*(Path(scratch, f"{number}-0.pt") for number in (first, processes)))
            print(
                f"| {processes} | {runs[0]['threads']} | {runs[0]['precision']} "
                f"| {median_and_range([run['speed'] for run in runs])} | {runs[0]['loss']:.5f} | {distance:.1e} |"
            )
    print("\n| bytes | all-reduce, ms | MB/s |\n|---|---|---|")
    for size, seconds in run_script(max(options.processes), ALL_REDUCE).items():
        print(f"| {int(size):,} | {1e3 * seconds:.3f} | {int(size) / seconds / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
