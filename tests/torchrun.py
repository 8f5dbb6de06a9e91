"""Jobs that `torchrun` starts in several processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
from conftest import ROOT

from catae.settings import Settings

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ON_ONE_HOST = ["--standalone", "--local-addr", "127.0.0.1"]


def environment(**variables: str) -> dict[str, str]:
    """That of processes of one thread each, which speak on this machine only."""
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return {**os.environ, **ours, **variables}


def flags(settings: Settings) -> list[str]:
    """The settings that were given, as flags of `catae fit`."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def fit(settings: Settings, *how: str, processes: int = 2) -> "subprocess.Popen[str]":
    """Starts `catae fit` in so many processes."""
    command = [*TORCHRUN, *ON_ONE_HOST, "--nproc-per-node", str(processes), *how, "-m", "catae", "fit"]
    return subprocess.Popen(
        [*command, *flags(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def fitted(process: "subprocess.Popen[str]", seconds: float = 300) -> tuple[int, str, str]:
    """Waits for the end; gives the exit code and what was written."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise
    return process.returncode, out, err


def end(process: "subprocess.Popen[str]") -> None:
    """Ends a job and all of its processes."""
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.kill()
    process.wait()


def of_rank(rank: int, above: int) -> psutil.Process:
    """The process of this rank below the process `above`."""
    (found,) = (
        each for each in psutil.Process(above).children(recursive=True) if each.environ().get("RANK") == str(rank)
    )
    return found


def weights(folder: Path) -> bytes:
    """The model that a run hands out, byte for byte."""
    return (folder / "model.safetensors").read_bytes()
