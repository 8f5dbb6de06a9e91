"""Find out about the machine: CPUs, precision, memory, software versions."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from catae.errors import UserError

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
# Linux's names of the bfloat16 instructions: AMX and AVX-512 on x86, and those of ARM.
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
# In errors of PyTorch. The second is what oneDNN says of any cause; for shapes that it supports, that is memory.
MEMORY_ERRORS = ("allocate memory", "could not create a primitive")
PACKAGES = ("catae", "torch", "torchvision", "prefect", "numpy", "pillow", "matplotlib", "tensorboard")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """Return how many CPUs this process may use: the smaller of its affinity and its container's quota.

    A container with `--cpus 1` sees every CPU of its host. With one thread per visible CPU, threads wait for each
    other and training takes 4 to 90 times as long.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, int(_quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Return the container's CPU quota from cgroup v2 or v1, or a very large number if there is none."""
    # `loky.cpu_count` reads the same files, but rounds up: with `--cpus 1.5` it counts 2 CPUs, and this counts 1,
    # so that threads never use up the quota and stop together until the next period.
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
    except OSError:
        return 1e9
    return 1e9 if quota in ("max", "-1") else float(quota) / float(period)


def limit_openblas() -> None:
    """Limit NumPy to the CPUs this process may use, instead of one thread per CPU of the host.

    Call it before NumPy is imported. A value that the user has set wins.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(usable_cpus()))


def use_threads(threads: int, processes: int = 1) -> int:
    """Set PyTorch's number of threads and return it.

    Args:
        threads: number of threads; 0 means every CPU this process may use, or as many as OMP_NUM_THREADS says.
        processes: training processes on this machine, which share the threads; each has at least one.
    """
    import torch  # not at the top: `limit_openblas` must run before it is imported

    share = (threads or usable_cpus()) // processes
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list has a number per nested level
    # For several processes, torchrun sets the variable to 1 if the user has not set it.
    if not threads and processes == 1 and limit.isdecimal():
        share = min(share, int(limit))
    torch.set_num_threads(max(1, share))
    return torch.get_num_threads()


def precision(requested: str, cpuinfo: Path = CPUINFO) -> tuple[str, str]:
    """Return the precision to train in, 'fp32' or 'bf16', and the reason.

    Without native instructions bf16 takes 44 to 499 times as long (https://github.com/pytorch/pytorch/issues/118499).

    Args:
        requested: 'auto', 'fp32' or 'bf16'.
        cpuinfo: the file in which Linux describes the CPU.
    """
    flags = {flag for line in _text(cpuinfo).splitlines() for flag in line.partition(":")[2].split()}
    native = next((flag for flag in BF16_FLAGS if flag in flags), None)
    support = f"the CPU has bf16 instructions ({native})" if native else "the CPU has no bf16 instructions"
    if requested == "auto":
        return ("bf16" if native else "fp32"), support
    reason = f"CATAE_PRECISION is {requested}"
    return requested, f"{reason}; {support}" if requested == "bf16" else reason


def available_memory(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> float:
    """Return the bytes this process may still allocate: the smaller of the machine's and its container's limit.

    Return infinity if neither is known.
    """
    facts = dict(line.split(":", 1) for line in _text(meminfo).splitlines())
    available = [float(facts["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in facts else []
    # cgroup v2, then v1. File cache counts as used, but the kernel reclaims it when memory is needed.
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if (limit := _text(cgroup / limit_file).strip()).isdigit():
            stat = dict(line.split() for line in _text((cgroup / used_file).with_name("memory.stat")).splitlines())
            available.append(float(limit) - float(_text(cgroup / used_file)) + float(stat.get("inactive_file", 0)))
    return min(available, default=math.inf)


@contextmanager
def explain_oom(what: str, needed: float, advice: str) -> Iterator[None]:
    """Check that the memory needed is available, and turn an allocation failure into one line for the user.

    Args:
        what: what needs the memory, in a few words.
        needed: estimate in bytes.
        advice: what the user can do.

    Raises:
        UserError: not enough memory, at the start or later.
    """
    if needed > (available := available_memory()):
        raise UserError(
            f"{what} needs about {needed / 1e9:,.1f} GB of memory, but {available / 1e9:,.1f} GB are available; "
            f"{advice}"
        )
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(message in str(error) for message in MEMORY_ERRORS):
            raise
        raise UserError(f"{what} ran out of memory; {advice}") from error


def describe() -> dict[str, object]:
    """Return the machine and the software versions for `run.json`."""
    return {
        "cpu": _cpu_name(),
        "cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def process() -> dict[str, object]:
    """Identify this process by pid, host and boot: a pid is unique only on one host, until it reboots."""
    boot = _text(Path("/proc/sys/kernel/random/boot_id")).strip()
    return {"pid": os.getpid(), "host": platform.node(), "boot": boot or None}


def _cpu_name() -> str:
    lines = _text(CPUINFO).splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _text(path: Path) -> str:
    """Return the contents of a kernel file, or an empty string where the system has no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
