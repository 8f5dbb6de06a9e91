"""Training with several processes, which `torchrun` starts. Most of the time of each test is their start."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jobs
import psutil
import pytest
import torchrun
from torchrun import EPOCHS, job_settings

from catae import settings
from catae.errors import UserError
from catae.pipeline import launcher, lifecycle, stages
from catae.run import Run
from catae.training.metrics import Epoch


@pytest.fixture(autouse=True)
def _alone_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchrun.environment().items():
        monkeypatch.setenv(name, value)


def prepare_run(folder: Path, **others: object) -> Run:
    """Return a run with its images and its split."""
    resolved = job_settings(folder, **others)
    new = lifecycle.create_run(resolved, settings.origins())
    for stage in (stages.read, stages.split):
        stage(new, resolved)
    return new


def at(number: int, act: Callable[[], None]) -> Callable[[Epoch, int], None]:
    """Return a callback that calls `act` after the epoch `number`."""

    def after(epoch: Epoch, max_epochs: int) -> None:
        if epoch.number == number:
            act()

    return after


def processes() -> list[psutil.Process]:
    """Return the processes of `torchrun` that this process has started."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            found += [each] if "torch.distributed.run" in each.cmdline() else []
    return found


def test_a_killed_worker_is_restarted_to_the_same_weights_and_leaves_no_log_folder(
    by_two: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "catae")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)  # tempfile remembers the first TMPDIR
    new = prepare_run(tmp_path)
    outcome = launcher.launch_workers(new, 2, at(2, lambda: torchrun.find_rank(1, os.getpid()).kill()))
    assert "resuming after epoch " in caplog.text
    assert outcome.epochs == EPOCHS
    assert torchrun.weights(new) == torchrun.weights(by_two)  # trained by `torchrun` directly
    assert not [*temporary.glob("torchelastic*")]


def test_messages_of_two_workers_do_not_mix() -> None:
    script = "from catae.pipeline import launcher\nfor number in range(3000): launcher._send(error='x' * 100)"
    out, into = os.pipe()
    # Unbuffered, as with PYTHONUNBUFFERED=1, which many images set.
    both = [subprocess.Popen([sys.executable, "-u", "-c", script], stdout=into) for _ in range(2)]
    os.close(into)
    with os.fdopen(out) as lines:
        messages = [json.loads(line.removeprefix(launcher.MESSAGE)) for line in lines]
    assert messages == 6000 * [{"error": "x" * 100}]
    assert [process.wait() for process in both] == [0, 0]


def test_a_users_error_of_a_worker_is_raised_and_the_workers_end(tmp_path: Path) -> None:
    diverging = job_settings(tmp_path, processes=2, learning_rate=1e38, init="torch")
    with pytest.raises(UserError, match=r"training diverged in .* lower CATAE_LEARNING_RATE, which is 1e\+38$"):
        jobs.train(diverging)
    assert not processes()


@pytest.mark.slow
def test_the_workers_end_when_this_process_is_interrupted(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.launch_workers(prepare_run(tmp_path), 2, at(1, interrupt))
    assert not processes()


@pytest.mark.slow
def test_the_workers_end_when_this_process_is_killed(tmp_path: Path) -> None:
    new = prepare_run(tmp_path, max_epochs=100_000, patience=100_000)
    script = (
        "import pathlib, sys; from catae import run; from catae.pipeline import launcher; "
        "launcher.launch_workers(run.Run(pathlib.Path(sys.argv[1])), 2, lambda epoch, max_epochs: None)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(new.path)])
    try:
        until = time.monotonic() + 400
        while not (new.checkpoints / "last.pt").exists() and time.monotonic() < until:
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert sum("RANK" in each.environ() for each in workers) == 2
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(workers, timeout=200)
    for each in alive:
        each.kill()
    assert not alive
