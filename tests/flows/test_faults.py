"""Faults during a job: a server that is unreachable or stops, transient errors, a timeout."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jobs
import pytest
from servers import SMALL, Server, background, environment, free_port, running, start, until

from catae import settings
from catae.run import Run

# Epochs of 0.1 s: training must last until the fault.
LONG = [
    "--source", "drawn:200", *SMALL, "--image-size", "64", "--width", "16", "--max-epochs", "60", "--patience", "60",
    "--output-dir", "out",
]  # fmt: skip
AUTH = ("cat", "pass word")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), PREFECT_SERVER_API_AUTH_STRING=":".join(AUTH)) as server:
        yield server


@pytest.fixture
def user(server: Server, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user who has the server's password."""
    return environment(tmp_path / "home", PREFECT_API_URL=server.api, PREFECT_API_AUTH_STRING=":".join(AUTH))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the final weights of the same training without faults."""
    flags = dict(zip(LONG[::2], LONG[1::2], strict=True)) | {
        "--output-dir": str(tmp_path_factory.mktemp("undisturbed"))
    }
    resolved = settings.load({flag[2:].replace("-", "_"): value for flag, value in flags.items()})
    return jobs.train(resolved).model.read_bytes()


@contextmanager
def training(variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start `catae train` and wait until it has trained for some epochs."""
    log = Path("train.log")
    with background(log, [sys.executable, "-m", "catae", "train", *LONG], variables) as process:
        until(lambda: "\nepoch  5/60" in log.read_text(), log)
        yield process


def test_an_unreachable_server_is_one_line_and_nothing_starts(tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{free_port()}/api"
    ended = start(tmp_path / "home", "catae", "train", "--output-dir", "out", PREFECT_API_URL=api)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"catae: the Prefect server at {api} (PREFECT_API_URL) does not answer: [Errno 111] Connection refused; "
        "start it (prefect server start), or unset PREFECT_API_URL to use the embedded one\n"
    )
    assert not Path("out").exists()


def test_an_unwritable_prefect_home_is_one_line_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = start(tmp_path / "file" / "home", "catae", "train", "--output-dir", "out")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"catae: Prefect's embedded server cannot write to its folder {tmp_path}/file/home: Not a directory; set "
        "PREFECT_HOME to another folder\n"
    )
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({}, "/api", "needs a password: set PREFECT_API_AUTH_STRING=user:password"),
        ({"PREFECT_API_AUTH_STRING": "cat:x"}, "/api", "rejects PREFECT_API_AUTH_STRING=user:password"),
        ({}, "", "answers 404; does the address end in /api?"),
    ],
)
def test_a_wrong_password_or_address_is_one_line_and_nothing_starts(
    server: Server, tmp_path: Path, given: dict[str, str], path: str, message: str
) -> None:
    url = server.api.removesuffix("/api") + path
    ended = start(tmp_path / "home", "catae", "train", "--output-dir", "out", PREFECT_API_URL=url, **given)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert ended.stderr.startswith("catae: ")
    assert ended.stderr.endswith(f"{message}\n")
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_server_outage_of_30_s_loses_nothing(server: Server, user: dict[str, str], undisturbed: bytes) -> None:
    with training(user) as job:
        server.stop(signal.SIGKILL)
        time.sleep(20)
        server.start()  # which takes 10 s
        assert job.wait(300) == 0
    done = Run(Path("out/latest").resolve())
    assert done.read()["state"] == "finished"
    assert done.model.read_bytes() == undisturbed
    (newest,) = server.ask("flow_runs/filter", AUTH, limit=1, sort="START_TIME_DESC")
    assert newest["state_type"] == "COMPLETED"
    ended = until(lambda: server.tasks_of(newest["id"], AUTH))
    assert set(ended.values()) == {"Completed"}, ended


@pytest.mark.slow
def test_a_transient_error_is_retried_to_the_same_weights(
    server: Server, user: dict[str, str], undisturbed: bytes
) -> None:
    log = Path("train.log")
    with training(user) as job:
        checkpoints = Run(Path("out/latest").resolve()).checkpoints
        job.send_signal(signal.SIGSTOP)
        checkpoints.rename("elsewhere")  # as when a mount disappears
        checkpoints.symlink_to(checkpoints)
        job.send_signal(signal.SIGCONT)
        until(lambda: "train failed and is retried in 10 s: FileExistsError(" in log.read_text(), log)
        checkpoints.unlink()
        Path("elsewhere").rename(checkpoints)
        assert job.wait(300) == 0
    done = Run(Path("out/latest").resolve())
    assert done.model.read_bytes() == undisturbed
    epochs = [int(number) for number in re.findall(r"^epoch +(\d+)/60", log.read_text(), re.M)]
    assert epochs == list(range(1, 61))  # no epoch was run again
    assert re.search(r"^resuming after epoch ([5-9]|\d\d) ", log.read_text(), re.M)
    assert server.ask("flow_runs/filter", AUTH, limit=1, sort="START_TIME_DESC")[0]["state_type"] == "COMPLETED"


def test_a_timeout_is_one_line_and_the_same_command_resumes(server: Server, user: dict[str, str]) -> None:
    variables = user | {"CATAE_TIMEOUT_MINUTES": "0.1"}
    # Small enough that even a busy machine finishes an epoch in the first 6 s.
    endless = [*LONG, "--image-size", "32", "--width", "4", "--max-epochs", "100000", "--patience", "100000"]
    command = [sys.executable, "-m", "catae", "train", *endless]
    first, second = (
        subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
        for _ in range(2)
    )
    message = (
        "training timed out after 0.1 minutes (CATAE_TIMEOUT_MINUTES); run the same command again to resume it, for as "
        "long again"
    )
    for ended in (first, second):
        assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
        assert ended.stderr.endswith(f"\ncatae: {message}\n")
        assert "Traceback" not in ended.stderr
    assert json.loads(Path("out/latest/run.json").read_text())["error"] == f"UserError: {message}"
    assert len(list(Path("out/runs").iterdir())) == 1
    assert f"resuming run {Path('out/latest').resolve().name} (failed)" in second.stderr
    newest = server.ask("flow_runs/filter", AUTH, limit=1, sort="START_TIME_DESC")[0]
    assert (newest["state_name"], newest["state_type"]) == ("Failed", "FAILED")
    states = until(lambda: "train" in (found := server.tasks_of(newest["id"], AUTH)) and found)
    assert states == {"read images": "Completed", "split": "Completed", "train": "TimedOut"}


@pytest.mark.slow
def test_a_server_that_stays_down_is_one_line_and_the_run_finishes(
    server: Server, user: dict[str, str], undisturbed: bytes
) -> None:
    log = Path("train.log")
    with training(user) as job:
        server.stop(signal.SIGKILL)
        until(lambda: "training ends" in log.read_text(), log)
        assert job.wait(300) == 2
    done = Run(Path("out/latest").resolve())
    manifest = json.loads(done.manifest.read_text())
    assert (manifest["state"], manifest["error"]) == ("finished", None)
    assert done.model.read_bytes() == undisturbed
    assert done.report.stat().st_size > 50_000
    assert log.read_text().splitlines()[-1] == (
        f"catae: run {done.id} is finished, with its files in {done.path}; but the Prefect server at {server.api} "
        "no longer answers, and lacks the progress of training, the report, the table of epochs, the end of the log, "
        "and the state of the run"
    )
    assert "Traceback" not in log.read_text()
