import os
from importlib import metadata
from pathlib import Path

import pytest
import torch

from catae import machine


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", None), ("100000 100000", 1), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_a_containers_quota_counts_and_not_the_hosts_cpus(tmp_path: Path, quota: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert machine.usable_cpus(tmp_path) == (cpus or len(os.sched_getaffinity(0)))


def test_so_does_a_quota_of_the_older_kind(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cpus(tmp_path) == 1
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert machine.usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    assert machine.usable_cpus(tmp_path / "nothing") == len(os.sched_getaffinity(0))


def test_pytorch_computes_with_as_many_threads_as_were_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        assert machine.use_threads(1) == torch.get_num_threads() == 1
        assert machine.use_threads(0) == machine.usable_cpus()
    finally:
        torch.set_num_threads(before)


def test_the_machine_and_the_software_are_described() -> None:
    described = machine.describe()
    assert described["cpu"] != "unknown"
    assert described["packages"]["torch"] == metadata.version("torch")  # type: ignore[index]
