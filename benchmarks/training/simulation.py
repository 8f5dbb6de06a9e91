"""What training would take on more processes than there are here: a model whose constants are measured in the same run.

    python benchmarks/training/simulation.py --source cats.zip > benchmarks/results/<date>-scale.md

A step of N processes takes what its share of the batch costs to compute and to load, and what adding up the gradients
costs: gloo's sum is a ring (reduce-scatter, then all-gather; Patarasuk & Yuan 2009,
https://doi.org/10.1016/j.jpdc.2008.09.002), 2 (N - 1) rounds of a message's Nth part. The model is first held against
what one process with all threads and several with a share of them do here, then asked about more of them, each on a
machine of its own that is like this one and holds the whole store. It knows no stragglers and no failures, and nothing
overlaps, as in `catae.ranks`. Prints Markdown.
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
from distributed import ADD, TRAIN, by, shown

from catae import settings
from catae.data import ingest
from catae.data.image_store import PIXELS, ImageStore
from catae.data.loader import train_loader
from catae.model.autoencoder import AutoEncoder
from catae.system import hardware

# Steps of a process by itself, while the others take theirs beside it: memory and clock are shared as in training.
STEP = """
import json, statistics, sys, time
import torch
from catae import machine, ranks, settings, training
with ranks.joined() as us:
    machine.use_threads(0, us.beside)
    state = training.Training(settings.load({}))
    seconds = {}
    for size in json.loads(sys.argv[1]):
        batch, times = torch.rand(size, 64, 64, 3).permute(0, 3, 1, 2) * 2 - 1, []
        us.wait()
        for _ in range(int(sys.argv[2])):
            begun = time.perf_counter()
            loss = training.step(state.model, batch, state.optimizer, state.dtype)
            if state.average:
                state.average.follow(loss.item())
            times.append(time.perf_counter() - begun)
        seconds[size] = statistics.median(times)
    us.wait()  # who ends first takes the connection along
    if us.first:
        print(json.dumps(seconds))
"""
BATCH = 64
SHARES = (8, 16, 32, 64)  # pictures of a step
NETWORKS = (1, 10, 25)  # Gbit/s
AWAY = 50e-6  # s that a round takes longer between two machines than within one: assumed, there is one machine here
PROCESSES = tuple(2**power for power in range(11))
PICTURES = (15_000, 1_000_000, 100_000_000)


@dataclass(frozen=True)
class Line:
    """What an amount takes: `fixed` seconds, and `each` for every one of it."""

    fixed: float
    each: float

    def of(self, amount: float) -> float:
        """Seconds for so much."""
        return self.fixed + self.each * amount


def fitted(seconds: Mapping[float, float]) -> Line:
    """The line through the seconds of amounts: least squares of the relative errors, and nothing is below zero."""
    amounts, measured = np.array(sorted(seconds.items())).T
    scale = amounts.max()
    terms = np.stack([np.ones_like(amounts), amounts / scale], axis=1) / measured[:, None]
    (fixed, each), _ = scipy.optimize.nnls(terms, np.ones_like(measured))
    return Line(fixed, each / scale)


@dataclass(frozen=True)
class Costs:
    """What a process's work takes, in seconds.

    Attributes:
        compute: a step of so many pictures, without the sum.
        link: a round of the ring with so many bytes.
        cached: a picture that is loaded from memory.
        disk: one that is loaded from the disk.
        memory: bytes that the store may lie in, on each machine.
        message: bytes of the gradients.
        picture: bytes of one in the store.
    """

    compute: Line
    link: Line
    cached: float
    disk: float
    memory: int
    message: int
    picture: int

    def over(self, gigabits: float) -> "Costs":
        """The same between machines: a round is as slow as the network, or as what sums and copies here."""
        return replace(self, link=Line(self.link.fixed + AWAY, max(self.link.each, 8 / (gigabits * 1e9))))


def ring(message: float, processes: int, link: Line) -> float:
    """Seconds in which each of the processes has the sum of their messages of so many bytes."""
    return 2 * (processes - 1) * link.of(message / processes)


def epoch(costs: Costs, processes: int, batch: float, pictures: int) -> float:
    """Seconds of an epoch of so many pictures, in batches of so many over all processes."""
    share = batch / processes
    in_memory = min(1.0, costs.memory / (pictures * costs.picture))
    load = in_memory * costs.cached + (1 - in_memory) * costs.disk
    return pictures / batch * (costs.compute.of(share) + share * load + ring(costs.message, processes, costs.link))


def loading(images: ImageStore, batches: int) -> tuple[float, float]:
    """Seconds to load a picture in training's order: from memory, and with the kernel's pages dropped."""
    chosen, medians = settings.load({}), []
    descriptor = os.open(images.path / PIXELS, os.O_RDONLY)
    for dropped in (False, True):
        times = []
        for number in range(3):
            images.take(range(len(images)))
            if dropped:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            loader = train_loader(images, range(len(images)), BATCH, 0, number, 0, chosen.hflip, chosen.shift)
            begun = time.perf_counter()
            loaded = sum(len(batch) for batch in islice(loader, batches))
            times.append((time.perf_counter() - begun) / loaded)
        medians.append(statistics.median(times))
    os.close(descriptor)
    return medians[0], medians[1]


def table(costs: Costs, processes: Sequence[int]) -> str:
    """Efficiency, and hours an epoch: of the recipe's batch, and of one that grows with the processes."""
    many = "".join(f" h for {pictures:,} |" for pictures in PICTURES)
    lines = [f"| processes | 64 in all: efficiency |{many} 64 each: efficiency |{many}", "|" + "---|" * 9]
    for count in processes:
        row = f"| {count:,} |"
        for batch in (BATCH, BATCH * count):
            if batch < count:
                row += " – |" * 4  # fewer pictures than processes
                continue
            alone = epoch(costs, 1, BATCH, PICTURES[0])
            row += f" {alone / count / epoch(costs, count, batch, PICTURES[0]):.0%} |"
            hours = {pictures: epoch(costs, count, batch, pictures) / 3600 for pictures in PICTURES}
            row += "".join(f" {hours[n]:,.3g} |" if n >= batch else " – |" for n in PICTURES)  # a whole step, at least
        lines.append(row)
    return "\n".join(lines)


def middle(runs: Sequence[Mapping[str, float]]) -> dict[float, float]:
    """The median over the runs of what each amount takes."""
    return {float(amount): statistics.median(run[amount] for run in runs) for amount in runs[0]}


def held_against(amounts: Mapping[float, float], line: Line) -> str:
    """Rows of amounts, with the milliseconds measured and those of the line."""
    rows = (f"| {amount:,.0f} | {1e3 * s:,.3f} | {1e3 * line.of(amount):,.3f} |" for amount, s in amounts.items())
    return "\n".join(["|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="drawn:4000")
    parser.add_argument("--pictures", type=int, default=3200, help="train pictures of the epoch that is predicted")
    parser.add_argument("--steps", type=int, default=60, help="of each size")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    speeds: dict[int, list[float]] = {1: [], 2: []}
    steps: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    sums: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        images, _ = ingest.read(options.source, Path(scratch, "cache"))
        for _ in range(options.repeats):  # in turns, so that a busy minute is not one side's alone
            for count in speeds:
                words = [str(images.path), str(options.pictures), str(Path(scratch, "weights.pt")), '{"init": "torch"}']
                speeds[count].append(by(count, TRAIN, *words)["speed"])
                steps[count].append(by(count, STEP, str([*SHARES]), str(options.steps)))
            sums.append(by(2, ADD))
        cached, disk = loading(images, batches=20)

    link = fitted(middle(sums))
    here = Costs(
        compute=fitted(middle(steps[1])),
        link=Line(link.fixed / 2, link.each),  # two rounds of half the message
        cached=cached,
        disk=disk,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2,
        message=4 * (sum(weight.numel() for weight in AutoEncoder.of(settings.load({}), images.size).parameters()) + 1),
        picture=images.size**2 * 3,
    )
    sizes = f"--pictures {options.pictures} --steps {options.steps} --repeats {options.repeats}"
    command = f"python benchmarks/training/simulation.py --source {Path(options.source).name} {sizes}"
    print(f"# Scale, {date.today()}\n\n`{command}`\n")
    print(
        f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, medians of {options.repeats} repeats; the load"
    )
    print(f"was {os.getloadavg()[2]:.1f} over the last 15 minutes, these processes' own included.\n")
    print(f"Two processes add up:\n\n| bytes | ms | by the fit |\n{held_against(middle(sums), link)}")
    computing = {count: fitted(middle(runs)) for count, runs in steps.items()}
    for count, line in computing.items():
        print(f"\nSteps by {count} side by side, without the sum:\n\n| pictures | ms | by the fit |")
        print(held_against(middle(steps[count]), line))
    print(f"\nA round of the ring takes {1e6 * here.link.fixed:,.0f} µs and goes at {1e-6 / here.link.each:,.0f} MB/s.")
    print(
        f"The gradients are {here.message:,} bytes: {1e3 * ring(here.message, 2, here.link):.1f} ms for two processes."
    )
    print(f"A picture is loaded in {1e6 * cached:,.0f} µs from memory, in {1e6 * disk:,.0f} from the disk.\n")
    print("| processes | threads each | images/s, measured | predicted | error |\n|---|---|---|---|---|")
    for count, found in speeds.items():
        costs = replace(here, compute=computing[count])
        predicted = options.pictures / epoch(costs, count, BATCH, options.pictures)
        threads, error = hardware.usable_cpus() // count, predicted / statistics.median(found) - 1
        print(f"| {count} | {threads} | {shown(found)} | {predicted:,.0f} | {error:+.0%} |")
    print(f"\nSimulated: each process on a machine of its own, {here.memory / 1e9:.0f} GB of it for the store.")
    for gigabits in NETWORKS:
        print(f"\n{gigabits} Gbit/s, {1e6 * AWAY:.0f} µs more a round:\n\n{table(here.over(gigabits), PROCESSES)}")


if __name__ == "__main__":
    main()
