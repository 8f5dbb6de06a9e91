"""The model of training on many machines in `benchmarks/training/simulation.py`. Its measurements are not tested."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "training"))
from simulation import Costs, Line, epoch, fitted, ring, table

FREE = Line(0.0, 0.0)
COSTS: Any = Costs(
    compute=Line(0.0, 1e-3),
    link=FREE,
    cached=1e-5,
    disk=1e-4,
    memory=10**9,
    message=10**7,
    picture=12_288,
)


def test_a_fit_finds_the_constants_that_made_the_seconds() -> None:
    link = Line(2e-4, 1e-9)
    found = fitted({size: link.of(size) for size in (2.0**power for power in range(10, 27, 2))})
    assert found.fixed == pytest.approx(link.fixed)
    assert found.each == pytest.approx(link.each)


def test_a_fit_promises_no_time_below_zero() -> None:
    assert fitted({8: 1.0, 16: 3.0, 32: 7.0}).fixed == 0


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_the_rings_rounds_are_those_after_which_each_process_has_the_whole_sum(processes: int) -> None:
    parts = np.random.default_rng(0).integers(0, 100, (processes, processes))  # of each process's message
    wanted, held, rounds = parts.sum(0), parts.copy(), 0
    while not (held == wanted).all():
        sent = [(rank, (rank - rounds) % processes) for rank in range(processes)]
        moved = [held[rank, part] for rank, part in sent]
        for (rank, part), number in zip(sent, moved, strict=True):
            above = (rank + 1) % processes
            # The first rounds add, the others hand round what is whole.
            held[above, part] = number + held[above, part] if rounds < processes - 1 else number
        rounds += 1
    link = Line(3e-5, 1e-9)
    assert ring(10**7, processes, link) == pytest.approx(rounds * link.of(10**7 / processes))


@pytest.mark.parametrize("processes", [2, 64, 1024])
def test_where_sums_and_steps_cost_nothing_n_processes_are_n_times_as_fast(processes: int) -> None:
    alone = epoch(COSTS, 1, 64, 15_000)
    assert epoch(COSTS, processes, 64 * processes, 15_000) == pytest.approx(alone / processes)
    assert epoch(COSTS, processes, 64, 15_000) == pytest.approx(alone / processes)


def test_what_every_step_costs_keeps_a_batch_of_fixed_size_from_growing_faster() -> None:
    costs = replace(COSTS, compute=Line(0.01, 1e-3), link=Line(1e-4, 1e-9))
    steps = 15_000 / 64
    assert epoch(costs, 64, 64, 15_000) > steps * (0.01 + 2 * 63 * 1e-4)
    assert epoch(costs, 64, 64 * 64, 15_000) < epoch(costs, 64, 64, 15_000) / 10


def test_a_store_that_is_larger_than_memory_is_read_from_the_disk() -> None:
    within, beyond = COSTS.memory // COSTS.picture, 10 * COSTS.memory // COSTS.picture
    assert epoch(COSTS, 1, 64, within) / within == pytest.approx(1e-3 + COSTS.cached)
    assert epoch(COSTS, 1, 64, beyond) / beyond == pytest.approx(1e-3 + 0.1 * COSTS.cached + 0.9 * COSTS.disk, rel=1e-3)


def test_a_network_makes_no_round_faster_than_what_sums_and_copies() -> None:
    costs = replace(COSTS, link=Line(1e-4, 1e-9))
    assert costs.over(1).link.each == pytest.approx(8e-9)
    assert costs.over(100).link.each == costs.link.each
    assert costs.over(100).link.fixed > costs.link.fixed


def test_no_process_of_the_table_is_without_a_picture() -> None:
    rows = table(COSTS, (1, 64, 128)).splitlines()[2:]
    assert "–" not in rows[1]
    assert rows[2].count("–") == 4
