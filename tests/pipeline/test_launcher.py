"""Training in several processes that `torchrun` starts. Starting them takes most of the time of each test."""

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
def _torchrun_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchrun.environment().items():
        monkeypatch.setenv(name, value)


def prepare_run(folder: Path, **overrides: object) -> Run:
    """Create a run, read its images and split them."""
    resolved = job_settings(folder, **overrides)
    new = lifecycle.create_run(resolved, settings.origins())
    for stage in (stages.read, stages.split):
        stage(new, resolved)
    return new


def after_epoch(number: int, action: Callable[[], None]) -> Callable[[Epoch, int], None]:
    """Return a callback that calls `action` after epoch `number`."""

    def callback(epoch: Epoch, max_epochs: int) -> None:
        if epoch.number == number:
            action()

    return callback


def processes() -> list[psutil.Process]:
    """Return the `torchrun` processes below this process."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended in the meantime
            found += [each] if "torch.distributed.run" in each.cmdline() else []
    return found


def test_a_killed_worker_is_restarted_to_the_same_weights_and_leaves_no_log_folder(
    two_process_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "catae")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)  # tempfile remembers the first TMPDIR
    new = prepare_run(tmp_path)
    outcome = launcher.launch_workers(new, 2, after_epoch(2, lambda: torchrun.find_rank(1, os.getpid()).kill()))
    assert "resuming after epoch " in caplog.text
    assert outcome.epochs == EPOCHS
    assert torchrun.weights(new) == torchrun.weights(two_process_run)  # trained by `torchrun` directly
    assert not [*temporary.glob("torchelastic*")]


def test_messages_of_two_workers_do_not_mix() -> None:
    script = "from catae.pipeline import launcher\nfor number in range(3000): launcher._send(error='x' * 100)"
    read_end, write_end = os.pipe()
    # Unbuffered, as with PYTHONUNBUFFERED=1, which many images set.
    workers = [subprocess.Popen([sys.executable, "-u", "-c", script], stdout=write_end) for _ in range(2)]
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        messages = [json.loads(line.removeprefix(launcher.MESSAGE)) for line in lines]
    assert messages == 6000 * [{"error": "x" * 100}]
    assert [process.wait() for process in workers] == [0, 0]


def test_a_user_error_in_a_worker_is_raised_and_the_workers_end(tmp_path: Path) -> None:
    diverging = job_settings(tmp_path, processes=2, learning_rate=1e38, init="torch")
    with pytest.raises(UserError, match=r"training diverged in .* lower CATAE_LEARNING_RATE, which is 1e\+38$"):
        jobs.train(diverging)
    assert not processes()


@pytest.mark.slow
def test_the_workers_end_when_this_process_is_interrupted(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.launch_workers(prepare_run(tmp_path), 2, after_epoch(1, interrupt))
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
    _, alive = psutil.wait_procs(workers, timeout=300)
    for each in alive:
        each.kill()
    assert not alive
