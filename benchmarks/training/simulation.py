"""Predict the time of training on many machines, from constants measured on this one in the same run.

    python benchmarks/training/simulation.py --source cats.zip > benchmarks/results/<date>-scale.md

A step of N processes takes three terms: compute for the local batch, loading it, and the all-reduce of the gradients.
gloo's all-reduce is a ring (reduce-scatter, then all-gather; Patarasuk & Yuan 2009,
https://doi.org/10.1016/j.jpdc.2008.09.002): 2 (N - 1) rounds, each with an Nth of the message. The script first
compares the model with measured training by one process with all threads and by two with half of them. It then applies
the model to more processes. Each of them has a machine like this one, with a full copy of the image store. It has no
stragglers, no failures and no overlap of compute and communication, like `catae.training.distributed`. The output is
Markdown.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
import scipy.optimize
from distributed import ALL_REDUCE, TRAIN, median_and_range, run_script

from catae import settings
from catae.data import ingest
from catae.data.image_store import PIXELS, ImageStore
from catae.data.loader import train_loader
from catae.model.autoencoder import AutoEncoder
from catae.system import hardware

# Steps without all-reduce, in all processes at once: they share memory bandwidth and clock as in training.
STEP = """
import json, statistics, sys, time
import torch
from catae import settings
from catae.system import hardware
from catae.training import distributed, trainer
with distributed.init_process_group() as world:
    hardware.use_threads(0, world.local_world_size)
    state = trainer.Trainer(settings.load({}))
    seconds = {}
    for size in json.loads(sys.argv[1]):
        batch, times = torch.rand(size, 64, 64, 3).permute(0, 3, 1, 2) * 2 - 1, []
        world.barrier()
        for _ in range(int(sys.argv[2])):
            start = time.perf_counter()
            loss = trainer.step(state.model, batch, state.optimizer, state.dtype)
            if state.ema:
                state.ema.update()
            times.append(time.perf_counter() - start)
        seconds[size] = statistics.median(times)
    world.barrier()  # the first process to end closes the connection
    if world.is_main:
        print(json.dumps(seconds))
"""
BATCH = 64
LOCAL_BATCHES = (8, 16, 32, 64)  # images per step and process
BANDWIDTHS = (1, 10, 25)  # of the network, in Gbit/s
NETWORK_LATENCY = 50e-6  # s per round between machines, on top of a local round: assumed, since there is one machine
PROCESSES = tuple(2**power for power in range(11))
DATASET_SIZES = (15_000, 1_000_000, 100_000_000)  # images


@dataclass(frozen=True)
class LinearCost:
    """Seconds as a linear function of an amount: `fixed`, plus `per_unit` for each unit."""

    fixed: float
    per_unit: float

    def seconds(self, amount: float) -> float:
        """Return the seconds for an amount."""
        return self.fixed + self.per_unit * amount


def fit_cost(seconds: Mapping[float, float]) -> LinearCost:
    """Fit a line to the seconds measured for each amount: least squares of relative errors, coefficients >= 0."""
    amounts, measured = np.array(sorted(seconds.items())).T
    scale = amounts.max()
    terms = np.stack([np.ones_like(amounts), amounts / scale], axis=1) / measured[:, None]
    (fixed, per_unit), _ = scipy.optimize.nnls(terms, np.ones_like(measured))
    return LinearCost(fixed, per_unit / scale)


@dataclass(frozen=True)
class Costs:
    """The constants of the model.

    Attributes:
        compute: seconds of a step without all-reduce, by images in the local batch.
        ring_round: seconds of a round of the ring, by bytes.
        load_memory: seconds to load an image from memory.
        load_disk: seconds to load an image from disk.
        memory: bytes of memory for the image store, on each machine.
        gradients: bytes of the gradients.
        image: bytes of an image in the store.
    """

    compute: LinearCost
    ring_round: LinearCost
    load_memory: float
    load_disk: float
    memory: int
    gradients: int
    image: int

    def over_network(self, gigabits: float) -> "Costs":
        """Return the costs between machines: a round is limited by the network, or by summing and copying locally."""
        per_byte = max(self.ring_round.per_unit, 8 / (gigabits * 1e9))
        return replace(self, ring_round=LinearCost(self.ring_round.fixed + NETWORK_LATENCY, per_byte))


def all_reduce_seconds(message: float, processes: int, ring_round: LinearCost) -> float:
    """Return the seconds of a ring all-reduce of `message` bytes."""
    return 2 * (processes - 1) * ring_round.seconds(message / processes)


def epoch_seconds(costs: Costs, processes: int, batch: float, images: int) -> float:
    """Return the seconds of an epoch of `images` images. `batch` is the global batch, over all processes."""
    local_batch = batch / processes
    in_memory = min(1.0, costs.memory / (images * costs.image))
    load = in_memory * costs.load_memory + (1 - in_memory) * costs.load_disk
    all_reduce = all_reduce_seconds(costs.gradients, processes, costs.ring_round)
    return images / batch * (costs.compute.seconds(local_batch) + local_batch * load + all_reduce)


def measure_loading(images: ImageStore, batches: int) -> tuple[float, float]:
    """Return the seconds to load an image in training order: from memory, and from disk after dropping the cache."""
    defaults, medians = settings.load({}), []
    descriptor = os.open(images.path / PIXELS, os.O_RDONLY)
    for drop_cache in (False, True):
        times = []
        for number in range(3):
            images.take(range(len(images)))
            if drop_cache:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            loader = train_loader(
                images, range(len(images)), BATCH, 0, number, 0, defaults.hflip, defaults.shift, defaults.affine
            )
            start = time.perf_counter()
            loaded = sum(len(batch) for batch in islice(loader, batches))
            times.append((time.perf_counter() - start) / loaded)
        medians.append(statistics.median(times))
    os.close(descriptor)
    return medians[0], medians[1]


def scaling_table(costs: Costs, process_counts: Sequence[int]) -> str:
    """Return efficiency and hours per epoch, for a global batch of 64 and for a local batch of 64."""
    hours_header = "".join(f" h for {images:,} |" for images in DATASET_SIZES)
    header = f"| processes | global batch 64: efficiency |{hours_header} local batch 64: efficiency |{hours_header}"
    lines = [header, "|" + "---|" * 9]
    for processes in process_counts:
        row = f"| {processes:,} |"
        for batch in (BATCH, BATCH * processes):
            if batch < processes:
                row += " – |" * 4  # fewer images than processes
                continue
            single = epoch_seconds(costs, 1, BATCH, DATASET_SIZES[0])
            row += f" {single / processes / epoch_seconds(costs, processes, batch, DATASET_SIZES[0]):.0%} |"
            hours = {images: epoch_seconds(costs, processes, batch, images) / 3600 for images in DATASET_SIZES}
            row += "".join(f" {hours[n]:,.3g} |" if n >= batch else " – |" for n in DATASET_SIZES)  # at least one step
        lines.append(row)
    return "\n".join(lines)


def medians_by_amount(runs: Sequence[Mapping[str, float]]) -> dict[float, float]:
    """Return the median over the runs of the seconds for each amount."""
    return {float(amount): statistics.median(run[amount] for run in runs) for amount in runs[0]}


def comparison_rows(measured: Mapping[float, float], cost: LinearCost) -> str:
    """Return a row for each amount, with measured and fitted milliseconds."""
    rows = (f"| {amount:,.0f} | {1e3 * s:,.3f} | {1e3 * cost.seconds(amount):,.3f} |" for amount, s in measured.items())
    return "\n".join(["|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="drawn:4000", help="images, as for catae train (default: %(default)s)")
    parser.add_argument(
        "--images", type=int, default=3200, help="train images of the measured epoch (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=60, help="steps per local batch size (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each measurement (default: %(default)s)")
    options = parser.parse_args()
    speeds: dict[int, list[float]] = {1: [], 2: []}
    steps: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    all_reduces: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        images, _ = ingest.read(options.source, Path(scratch, "cache"))
        for _ in range(options.repeats):  # alternate, so that other load on the machine affects both
            for processes in speeds:
                arguments = [str(images.path), str(options.images), str(Path(scratch, "weights.pt"))]
                speeds[processes].append(run_script(processes, TRAIN, *arguments, '{"init": "torch"}')["speed"])
                steps[processes].append(run_script(processes, STEP, str([*LOCAL_BATCHES]), str(options.steps)))
            all_reduces.append(run_script(2, ALL_REDUCE))
        load_memory, load_disk = measure_loading(images, batches=20)

    all_reduce = fit_cost(medians_by_amount(all_reduces))
    parameters = sum(
        weight.numel() for weight in AutoEncoder.from_settings(settings.load({}), images.size).parameters()
    )
    local = Costs(
        compute=fit_cost(medians_by_amount(steps[1])),
        ring_round=LinearCost(all_reduce.fixed / 2, all_reduce.per_unit),  # two rounds with half of the message
        load_memory=load_memory,
        load_disk=load_disk,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2,
        gradients=4 * (parameters + 1),  # and the loss
        image=images.size**2 * 3,
    )
    sizes = f"--images {options.images} --steps {options.steps} --repeats {options.repeats}"
    command = f"python benchmarks/training/simulation.py --source {Path(options.source).name} {sizes}"
    print(f"# Scale, recipe spec, {date.today()}\n\n`{command}`\n")
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, medians of {options.repeats} repeats.")
    print(f"Load average over the last 15 minutes: {os.getloadavg()[2]:.1f}, including these processes.\n")
    print("All-reduce by two processes:\n\n| bytes | measured, ms | fitted, ms |")
    print(comparison_rows(medians_by_amount(all_reduces), all_reduce))
    compute = {processes: fit_cost(medians_by_amount(runs)) for processes, runs in steps.items()}
    for processes, cost in compute.items():
        print(f"\nSteps without all-reduce, {processes} at the same time:\n\n| images | measured, ms | fitted, ms |")
        print(comparison_rows(medians_by_amount(steps[processes]), cost))
    latency, bandwidth = 1e6 * local.ring_round.fixed, 1e-6 / local.ring_round.per_unit
    print(f"\nA round of the ring takes {latency:,.0f} µs, plus its bytes at {bandwidth:,.0f} MB/s.")
    exchange = 1e3 * all_reduce_seconds(local.gradients, 2, local.ring_round)
    print(f"The gradients have {local.gradients:,} bytes: {exchange:.1f} ms for two processes.")
    print(f"Loading an image takes {1e6 * load_memory:,.0f} µs from memory and {1e6 * load_disk:,.0f} µs from disk.\n")
    print("| processes | threads each | images/s, measured | predicted | error |\n|---|---|---|---|---|")
    for processes, measured in speeds.items():
        costs = replace(local, compute=compute[processes])
        predicted = options.images / epoch_seconds(costs, processes, BATCH, options.images)
        threads, error = hardware.usable_cpus() // processes, predicted / statistics.median(measured) - 1
        print(f"| {processes} | {threads} | {median_and_range(measured)} | {predicted:,.0f} | {error:+.0%} |")
    print(f"\nSimulated: each process has a machine of its own, with {local.memory / 1e9:.0f} GB for the store.")
    for gigabits in BANDWIDTHS:
        print(f"\n{gigabits} Gbit/s, {1e6 * NETWORK_LATENCY:.0f} µs more per round:\n")
        print(scaling_table(local.over_network(gigabits), PROCESSES))


if __name__ == "__main__":
    main()
