import math
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

import pytest
import torch

from catae.errors import UserError
from catae.system import hardware


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", None), ("100000 100000", 1), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_a_containers_quota_counts_and_not_the_hosts_cpus(tmp_path: Path, quota: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert hardware.usable_cpus(tmp_path) == (cpus or len(os.sched_getaffinity(0)))


def test_so_does_a_quota_of_the_older_kind(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert hardware.usable_cpus(tmp_path) == 1
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert hardware.usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    assert hardware.usable_cpus(tmp_path / "nothing") == len(os.sched_getaffinity(0))


def test_pytorch_computes_with_as_many_threads_as_were_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        assert hardware.use_threads(1) == torch.get_num_threads() == 1
        assert hardware.use_threads(0) == hardware.usable_cpus()
    finally:
        torch.set_num_threads(before)


def test_a_process_that_is_bound_to_one_cpu_computes_with_one_thread() -> None:
    # As `taskset --cpu-list 0` does it, which is not everywhere.
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from catae.system import hardware; hardware.limit_openblas()\n"
        "import torch; print(machine.use_threads(0), os.environ['OPENBLAS_NUM_THREADS'])"
    )
    unset = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    said = subprocess.run(
        [sys.executable, "-c", code], env=unset, capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(
    ("cpuinfo", "chosen", "why"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16", "bf16", "the CPU computes in it (amx_bf16)"),
        ("flags\t\t: fpu avx512_bf16", "bf16", "the CPU computes in it (avx512_bf16)"),
        ("Features\t: fp asimd bf16", "bf16", "the CPU computes in it (bf16)"),
        ("flags\t\t: fpu avx2 avx512f", "fp32", "this CPU has no instructions for bf16"),
        ("", "fp32", "this CPU has no instructions for bf16"),
    ],
)
def test_bfloat16_is_chosen_only_where_the_cpu_computes_in_it(
    tmp_path: Path, cpuinfo: str, chosen: str, why: str
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert hardware.precision("auto", tmp_path / "cpuinfo") == (chosen, why)
    assert hardware.precision("fp32", tmp_path / "cpuinfo") == ("fp32", "CATAE_PRECISION asks for it")
    assert hardware.precision("bf16", tmp_path / "cpuinfo") == ("bf16", f"CATAE_PRECISION asks for it; {why}")


def test_the_machine_and_the_software_are_described() -> None:
    described = hardware.describe()
    assert described["cpu"] != "unknown"
    assert described["packages"]["torch"] == metadata.version("torch")  # type: ignore[index]


def test_the_memory_that_is_left_is_the_machines_or_what_the_containers_limit_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert hardware.memory_left(tmp_path, meminfo) == 4_096_000
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory_left(tmp_path, meminfo) == 4_096_000
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 400000\n")
    assert hardware.memory_left(tmp_path, meminfo) == 900_000
    assert hardware.memory_left(tmp_path / "nowhere", tmp_path / "nothing") == math.inf
    assert 1e8 < hardware.memory_left() < 1e14


def test_only_the_want_of_memory_is_told_as_such() -> None:
    with pytest.raises(UserError, match="a batch has run out of memory; take less"), tight():
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="shape"), tight():
        torch.zeros(3) @ torch.zeros(4, 4)
    with pytest.raises(UserError, match=r"a batch takes about [\d,]+\.0 GB of memory, and [\d.]+ are free; take"):
        hardware.explain_oom("a batch", 1e30, "take less").__enter__()


def tight() -> AbstractContextManager[None]:
    return hardware.explain_oom("a batch", 0, "take less")


def test_a_process_is_told_from_one_of_the_same_number_before_the_machine_was_started_again() -> None:
    said = hardware.process()
    assert said["pid"] == os.getpid()
    assert said["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_processes_that_train_together_share_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert hardware.use_threads(4, processes=2) == 2
        assert hardware.use_threads(1, processes=2) == 1
        assert hardware.use_threads(0, processes=1000) == 1
    finally:
        torch.set_num_threads(before)
