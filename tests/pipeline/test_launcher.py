"""Training by processes that `torchrun` starts for this one. The larger part of each test's time is their start."""

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
from torchrun import EPOCHS, chosen

from catae import settings
from catae.errors import UserError
from catae.pipeline import launcher, lifecycle, stages
from catae.run import Run
from catae.training.metrics import Epoch


@pytest.fixture(autouse=True)
def _alone_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchrun.environment().items():
        monkeypatch.setenv(name, value)


def divided(folder: Path, **others: object) -> Run:
    """A run that is ready to train."""
    resolved = chosen(folder, **others)
    new = lifecycle.create_run(resolved, settings.origins())
    for stage in (stages.read, stages.split):
        stage(new, resolved)
    return new


def at(number: int, act: Callable[[], None]) -> Callable[[Epoch, int], None]:
    """Acts after epoch number `number`."""

    def after(epoch: Epoch, most: int) -> None:
        if epoch.number == number:
            act()

    return after


def processes() -> list[psutil.Process]:
    """Those that this one has started, and theirs, without loky's."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now
            found += [each] if "torch.distributed.run" in each.cmdline() else []
    return found


def test_one_that_is_killed_is_started_again_and_the_end_is_the_same_and_no_folder_for_logs_is_left(
    by_two: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "catae")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it would still be what TMPDIR was at first
    new = divided(tmp_path)
    outcome = launcher.launch_workers(new, 2, at(2, lambda: torchrun.of_rank(1, os.getpid()).kill()))
    assert "going on after epoch " in caplog.text
    assert outcome.epochs == EPOCHS
    assert torchrun.weights(new) == torchrun.weights(by_two)  # which torchrun was asked for by hand
    assert not [*temporary.glob("torchelastic*")]


def test_what_two_say_at_once_doesnt_run_together() -> None:
    saying = "from catae.pipeline import launcher\nfor number in range(3000): launcher._send(error='x' * 100)"
    out, into = os.pipe()
    # Unbuffered, as PYTHONUNBUFFERED=1 has it, which many images set.
    both = [subprocess.Popen([sys.executable, "-u", "-c", saying], stdout=into) for _ in range(2)]
    os.close(into)
    with os.fdopen(out) as lines:
        said = [json.loads(line.removeprefix(launcher.MESSAGE)) for line in lines]
    assert said == 6000 * [{"error": "x" * 100}]
    assert [process.wait() for process in both] == [0, 0]


def test_what_they_have_to_tell_the_user_is_the_tasks_error_and_they_end(tmp_path: Path) -> None:
    diverging = chosen(tmp_path, processes=2, learning_rate=1e38, init="torch")
    with pytest.raises(UserError, match=r"training has diverged; lower CATAE_LEARNING_RATE, which is 1e\+38$"):
        jobs.train(diverging)
    assert not processes()


@pytest.mark.slow
def test_they_end_with_what_ends_this_process(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.launch_workers(divided(tmp_path), 2, at(1, interrupt))
    assert not processes()


@pytest.mark.slow
def test_they_end_when_this_process_is_killed(tmp_path: Path) -> None:
    new = divided(tmp_path, max_epochs=100_000, patience=100_000)
    words = (
        "import pathlib, sys; from catae import run; from catae.pipeline import launcher; "
        "launcher.launch_workers(run.Run(pathlib.Path(sys.argv[1])), 2, lambda epoch, most: None)"
    )
    process = subprocess.Popen([sys.executable, "-c", words, str(new.path)])
    try:
        until = time.monotonic() + 400
        while not (new.checkpoints / "last.pt").exists() and time.monotonic() < until:
            time.sleep(0.1)
        theirs = psutil.Process(process.pid).children(recursive=True)
        assert sum("RANK" in each.environ() for each in theirs) == 2
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(theirs, timeout=200)
    for each in alive:
        each.kill()
    assert not alive
