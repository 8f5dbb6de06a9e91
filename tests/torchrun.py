"""Helpers for tests that start training with `torchrun` in several processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from catae import settings
from catae.run import Run
from catae.settings import Settings
from catae.training import checkpoint

EPOCHS = 20  # enough that a test has time to kill a process
ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SINGLE_HOST = ["--standalone", "--local-addr", "127.0.0.1"]


def environment(**variables: str) -> dict[str, str]:
    """Return an environment for processes of one thread each that communicate over loopback."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    defaults = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return {**inherited, **defaults, **variables}


def job_settings(output_dir: Path, **overrides: object) -> Settings:
    """Return the settings of a job that takes seconds."""
    small = {"source": "drawn:120", "image_size": 32, "latent_dim": 16, "width": 8, "threads": 1, "precision": "fp32"}
    epochs = {"max_epochs": EPOCHS, "patience": EPOCHS}
    return settings.load({**small, **epochs, "output_dir": str(output_dir), **overrides})


def flags(resolved: Settings) -> list[str]:
    """Return the explicitly set settings as flags of `catae fit`."""
    explicit = {name: getattr(resolved, name) for name in resolved.model_fields_set}
    return [word for name, value in explicit.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def fit(resolved: Settings, *options: str, processes: int = 2) -> "subprocess.Popen[str]":
    """Start `catae fit` in `processes` processes, with additional options of `torchrun`."""
    command = [*TORCHRUN, *SINGLE_HOST, "--nproc-per-node", str(processes), *options, "-m", "catae", "fit"]
    return subprocess.Popen(
        [*command, *flags(resolved)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def wait(process: "subprocess.Popen[str]", seconds: float = 600) -> tuple[int, str, str]:
    """Wait until a job ends; return its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    return process.returncode, out, err


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a job and all its child processes, unless it has ended."""
    if process.poll() is not None:
        return
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.kill()
    process.wait()


def find_rank(rank: int, ancestor: int) -> psutil.Process:
    """Return the descendant of the process `ancestor` that has this rank."""
    (found,) = (
        each for each in psutil.Process(ancestor).children(recursive=True) if each.environ().get("RANK") == str(rank)
    )
    return found


def train_in_two_processes(output_dir: Path) -> Run:
    """Return a run of `job_settings` that two processes trained."""
    code, out, err = wait(fit(job_settings(output_dir)))
    assert code == 0, err
    assert sum(line.startswith("epoch ") for line in err.splitlines()) == EPOCHS  # only the main process logs
    return Run(Path(out.removesuffix("\n")))


def weights(run: Run) -> dict[str, bytes]:
    """Return the bytes of each weight after the last epoch, by name."""
    model = checkpoint.load(run.checkpoints / "last.pt")["model"]
    return {name: weight.numpy().tobytes() for name, weight in model.items()}
