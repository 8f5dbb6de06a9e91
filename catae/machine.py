"""What this machine is, and how many threads it deserves."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
PACKAGES = ("catae", "torch", "torchvision", "prefect", "numpy", "pillow", "matplotlib", "tensorboard")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """How many CPUs this process may use: those of its affinity, or of its container's quota, if that is less.

    A container with `--cpus 1` sees every CPU of its host; as many threads as that would spend their time
    waiting for each other, 4 to 90 times as long.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(_quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """CPUs of the container's quota, of cgroup version 2 or 1; infinite without one."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
    except OSError:
        return 1e9
    return 1e9 if quota in ("max", "-1") else float(quota) / float(period)


def use_threads(threads: int) -> int:
    """Lets PyTorch compute with so many threads, or with all that this process may use for 0; tells how many."""
    torch.set_num_threads(threads or usable_cpus())
    return torch.get_num_threads()


def describe() -> dict[str, object]:
    """The machine and the software, for `run.json`."""
    return {
        "cpu": _cpu_name(),
        "cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
