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
def test_container_quota_limits_cpus(tmp_path: Path, quota: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert hardware.usable_cpus(tmp_path) == (cpus or len(os.sched_getaffinity(0)))


def test_cgroup_v1_quota_limits_cpus(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert hardware.usable_cpus(tmp_path) == 1
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert hardware.usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    assert hardware.usable_cpus(tmp_path / "nothing") == len(os.sched_getaffinity(0))


def test_pytorch_uses_the_requested_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert hardware.use_threads(1) == torch.get_num_threads() == 1
        assert hardware.use_threads(0) == hardware.usable_cpus()
        for limit, threads in (
            ("1", 1),
            ("1,2", 1),
            ("1000", hardware.usable_cpus()),
            ("many", hardware.usable_cpus()),
        ):
            monkeypatch.setenv("OMP_NUM_THREADS", limit)
            assert hardware.use_threads(0) == threads
            assert hardware.use_threads(2) == 2
    finally:
        torch.set_num_threads(before)


def test_process_bound_to_one_cpu_uses_one_thread() -> None:
    # The same as `taskset --cpu-list 0`, which is not installed everywhere.
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from catae.system import hardware; hardware.limit_openblas()\n"
        "import torch; print(hardware.use_threads(0), os.environ['OPENBLAS_NUM_THREADS'])"
    )
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    unset = {name: value for name, value in os.environ.items() if name not in limits}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=unset, capture_output=True, text=True, check=True, timeout=300
    )
    assert ran.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(
    ("cpuinfo", "precision", "reason"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16", "bf16", "the CPU has bf16 instructions (amx_bf16)"),
        ("flags\t\t: fpu avx512_bf16", "bf16", "the CPU has bf16 instructions (avx512_bf16)"),
        ("Features\t: fp asimd bf16", "bf16", "the CPU has bf16 instructions (bf16)"),
        ("flags\t\t: fpu avx2 avx512f", "fp32", "the CPU has no bf16 instructions"),
        ("", "fp32", "the CPU has no bf16 instructions"),
    ],
)
def test_bf16_needs_cpu_instructions(tmp_path: Path, cpuinfo: str, precision: str, reason: str) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert hardware.precision("auto", tmp_path / "cpuinfo") == (precision, reason)
    assert hardware.precision("fp32", tmp_path / "cpuinfo") == ("fp32", "CATAE_PRECISION is fp32")
    assert hardware.precision("bf16", tmp_path / "cpuinfo") == ("bf16", f"CATAE_PRECISION is bf16; {reason}")


def test_machine_and_software_are_described() -> None:
    described = hardware.describe()
    assert described["cpu"] != "unknown"
    assert described["packages"]["torch"] == metadata.version("torch")  # type: ignore[index]


def test_container_limit_reduces_available_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert hardware.available_memory(tmp_path, meminfo) == 4_096_000
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.available_memory(tmp_path, meminfo) == 4_096_000
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 400000\n")
    assert hardware.available_memory(tmp_path, meminfo) == 900_000
    assert hardware.available_memory(tmp_path / "nowhere", tmp_path / "nothing") == math.inf
    assert 1e8 < hardware.available_memory() < 1e14


def test_only_memory_errors_are_explained() -> None:
    with pytest.raises(UserError, match="a batch ran out of memory; use less"), explained():
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="shape"), explained():
        torch.zeros(3) @ torch.zeros(4, 4)
    with pytest.raises(
        UserError, match=r"a batch needs about [\d,]+\.0 GB of memory, but [\d.]+ GB are available; use"
    ):
        hardware.explain_oom("a batch", 1e30, "use less").__enter__()


def explained() -> AbstractContextManager[None]:
    return hardware.explain_oom("a batch", 0, "use less")


def test_process_is_identified_by_pid_and_boot() -> None:
    process = hardware.process()
    assert process["pid"] == os.getpid()
    assert process["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_processes_share_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert hardware.use_threads(4, processes=2) == 2
        assert hardware.use_threads(1, processes=2) == 1
        assert hardware.use_threads(0, processes=1000) == 1
    finally:
        torch.set_num_threads(before)
