"""Test the model of training on many machines in `benchmarks/training/simulation.py`, not its measurements."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "training"))
from simulation import Costs, LinearCost, all_reduce_seconds, epoch_seconds, fit_cost, scaling_table

FREE = LinearCost(0.0, 0.0)
COSTS: Any = Costs(
    compute=LinearCost(0.0, 1e-3),
    ring_round=FREE,
    load_memory=1e-5,
    load_disk=1e-4,
    memory=10**9,
    gradients=10**7,
    image=12_288,
)


def test_fit_recovers_the_constants() -> None:
    cost = LinearCost(2e-4, 1e-9)
    fitted = fit_cost({size: cost.seconds(size) for size in (2.0**power for power in range(10, 27, 2))})
    assert fitted.fixed == pytest.approx(cost.fixed)
    assert fitted.per_unit == pytest.approx(cost.per_unit)


def test_fitted_coefficients_are_not_negative() -> None:
    assert fit_cost({8: 1.0, 16: 3.0, 32: 7.0}).fixed == 0


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_rounds_of_the_ring_match_a_simulated_all_reduce(processes: int) -> None:
    chunks = np.random.default_rng(0).integers(0, 100, (processes, processes))  # of each process's message
    expected, state, rounds = chunks.sum(0), chunks.copy(), 0
    while not (state == expected).all():
        sent = [(rank, (rank - rounds) % processes) for rank in range(processes)]
        values = [state[rank, chunk] for rank, chunk in sent]
        for (rank, chunk), value in zip(sent, values, strict=True):
            receiver = (rank + 1) % processes
            # The first N - 1 rounds reduce, the others gather the complete sums.
            state[receiver, chunk] = value + state[receiver, chunk] if rounds < processes - 1 else value
        rounds += 1
    ring_round = LinearCost(3e-5, 1e-9)
    seconds = all_reduce_seconds(10**7, processes, ring_round)
    assert seconds == pytest.approx(rounds * ring_round.seconds(10**7 / processes))


@pytest.mark.parametrize("processes", [2, 64, 1024])
def test_speedup_is_linear_without_fixed_costs(processes: int) -> None:
    single = epoch_seconds(COSTS, 1, 64, 15_000)
    assert epoch_seconds(COSTS, processes, 64 * processes, 15_000) == pytest.approx(single / processes)
    assert epoch_seconds(COSTS, processes, 64, 15_000) == pytest.approx(single / processes)


def test_fixed_costs_limit_a_global_batch_of_fixed_size() -> None:
    costs = replace(COSTS, compute=LinearCost(0.01, 1e-3), ring_round=LinearCost(1e-4, 1e-9))
    steps = 15_000 / 64
    assert epoch_seconds(costs, 64, 64, 15_000) > steps * (0.01 + 2 * 63 * 1e-4)
    assert epoch_seconds(costs, 64, 64 * 64, 15_000) < epoch_seconds(costs, 64, 64, 15_000) / 10


def test_a_store_larger_than_memory_is_read_from_disk() -> None:
    within, beyond = COSTS.memory // COSTS.image, 10 * COSTS.memory // COSTS.image
    assert epoch_seconds(COSTS, 1, 64, within) / within == pytest.approx(1e-3 + COSTS.load_memory)
    loading = 0.1 * COSTS.load_memory + 0.9 * COSTS.load_disk
    assert epoch_seconds(COSTS, 1, 64, beyond) / beyond == pytest.approx(1e-3 + loading, rel=1e-3)


def test_a_fast_network_is_limited_by_the_local_all_reduce() -> None:
    costs = replace(COSTS, ring_round=LinearCost(1e-4, 1e-9))
    assert costs.over_network(1).ring_round.per_unit == pytest.approx(8e-9)
    assert costs.over_network(100).ring_round.per_unit == costs.ring_round.per_unit
    assert costs.over_network(100).ring_round.fixed > costs.ring_round.fixed


def test_the_table_leaves_out_more_processes_than_images_in_a_batch() -> None:
    rows = scaling_table(COSTS, (1, 64, 128)).splitlines()[2:]
    assert "–" not in rows[1]
    assert rows[2].count("–") == 4
