"""What this machine is, how many threads it deserves, and what memory it has."""

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
# What Linux calls the instructions for bfloat16: on x86, AVX-512's and AMX's, and on ARM.
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
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
    """Has NumPy start no more threads than this process may use, and not one for each CPU of the host.

    It counts only before NumPy is loaded, and only where the user has not decided.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(usable_cpus()))


def use_threads(threads: int, processes: int = 1) -> int:
    """Lets PyTorch compute with so many threads, or with all that this process may use for 0; tells how many.

    Processes that train together on this machine have their share of them each, and one at least.
    """
    import torch  # here, since `limit_openblas` has to come before it

    torch.set_num_threads(max(1, (threads or usable_cpus()) // processes))
    return torch.get_num_threads()


def precision(asked: str, cpuinfo: Path = CPUINFO) -> tuple[str, str]:
    """The arithmetic to train in, 'fp32' or 'bf16', and why.

    Without instructions for it, bf16 takes 44 to 499 times as long (https://github.com/pytorch/pytorch/issues/118499).

    Args:
        asked: 'auto', 'fp32' or 'bf16'.
        cpuinfo: where Linux tells of the CPU.
    """
    flags = {flag for line in _text(cpuinfo).splitlines() for flag in line.partition(":")[2].split()}
    able = next((flag for flag in BF16_FLAGS if flag in flags), None)
    has = f"the CPU computes in it ({able})" if able else "this CPU has no instructions for bf16"
    if asked == "auto":
        return ("bf16" if able else "fp32"), has
    return asked, f"CATAE_PRECISION asks for it; {has}" if asked == "bf16" else "CATAE_PRECISION asks for it"


def memory_left(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> float:
    """Bytes that this process may still take: of the machine's, or of its container's limit, if that is less.

    Infinite where nobody tells.
    """
    facts = dict(line.split(":", 1) for line in _text(meminfo).splitlines())
    left = [float(facts["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in facts else []
    # Version 2 of cgroups, and 1. The cache of files counts as used, and is given back when memory is wanted.
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if (most := _text(cgroup / limit).strip()).isdigit():
            stat = dict(line.split() for line in _text((cgroup / used).with_name("memory.stat")).splitlines())
            left.append(float(most) - float(_text(cgroup / used)) + float(stat.get("inactive_file", 0)))
    return min(left, default=math.inf)


@contextmanager
def explain_oom(what: str, needed: float, advice: str) -> Iterator[None]:
    """Looks for the memory that is needed, and turns the want of it into one line for the user.

    Args:
        what: needs it, in a few words.
        needed: bytes, as estimated.
        advice: what to do.

    Raises:
        UserError: there is too little memory, now or later.
    """
    if needed > (left := memory_left()):
        raise UserError(
            f"{what} takes about {needed / 1e9:,.1f} GB of memory, and {left / 1e9:,.1f} are free; {advice}"
        )
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise UserError(f"{what} has run out of memory; {advice}") from error


def describe() -> dict[str, object]:
    """The machine and the software, for `run.json`."""
    return {
        "cpu": _cpu_name(),
        "cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def process() -> dict[str, object]:
    """Which process this is: its number means something on its host only, and until that is started again."""
    boot = _text(Path("/proc/sys/kernel/random/boot_id")).strip()
    return {"pid": os.getpid(), "host": platform.node(), "boot": boot or None}


def _cpu_name() -> str:
    lines = _text(CPUINFO).splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _text(path: Path) -> str:
    """What a file of the kernel's says; nothing where this system has none."""
    try:
        return path.read_text()
    except OSError:
        return ""
