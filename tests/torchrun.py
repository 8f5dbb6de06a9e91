"""Jobs that `torchrun` starts in several processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from catae import settings
from catae.run import Run
from catae.settings import Settings
from catae.training import checkpoint

EPOCHS = 20  # of the jobs here: so many that there is time to kill a process
ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ON_ONE_HOST = ["--standalone", "--local-addr", "127.0.0.1"]


def environment(**variables: str) -> dict[str, str]:
    """That of processes of one thread each, which speak on this machine only."""
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    others = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    return {**others, **ours, **variables}


def chosen(output_dir: Path, **others: object) -> Settings:
    """A job of seconds."""
    small = {"source": "drawn:120", "image_size": 32, "latent_dim": 16, "width": 8, "threads": 1, "precision": "fp32"}
    epochs = {"max_epochs": EPOCHS, "patience": EPOCHS}
    return settings.load({**small, **epochs, "output_dir": str(output_dir), **others})


def flags(chosen: Settings) -> list[str]:
    """The settings that were given, as flags of `catae fit`."""
    given = {name: getattr(chosen, name) for name in chosen.model_fields_set}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def fit(chosen: Settings, *how: str, processes: int = 2) -> "subprocess.Popen[str]":
    """Starts `catae fit` in so many processes."""
    command = [*TORCHRUN, *ON_ONE_HOST, "--nproc-per-node", str(processes), *how, "-m", "catae", "fit"]
    return subprocess.Popen(
        [*command, *flags(chosen)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def fitted(process: "subprocess.Popen[str]", seconds: float = 600) -> tuple[int, str, str]:
    """Waits for the end; gives the exit code and what was written."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise
    return process.returncode, out, err


def end(process: "subprocess.Popen[str]") -> None:
    """Ends a job and all of its processes, if it hasn't ended."""
    if process.poll() is not None:
        return
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.kill()
    process.wait()


def of_rank(rank: int, above: int) -> psutil.Process:
    """The process of this rank below the process `above`."""
    (found,) = (
        each for each in psutil.Process(above).children(recursive=True) if each.environ().get("RANK") == str(rank)
    )
    return found


def by_two(output_dir: Path) -> Run:
    """A run of `chosen` by two processes."""
    code, out, err = fitted(fit(chosen(output_dir)))
    assert code == 0, err
    assert sum(line.startswith("epoch ") for line in err.splitlines()) == EPOCHS  # one of them speaks for both
    return Run(Path(out.removesuffix("\n")))


def weights(run: Run) -> dict[str, bytes]:
    """Those that a run has after its last epoch, byte for byte."""
    model = checkpoint.load(run.checkpoints / "last.pt")["model"]
    return {name: weight.numpy().tobytes() for name, weight in model.items()}
