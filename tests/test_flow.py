"""The flow on Prefect's embedded server, in processes of its own, as a user starts it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

SMALL = [
    "--image-size", "32", "--latent-dim", "8", "--width", "4", "--max-epochs", "2", "--samples", "4",
    "--interpolation-steps", "5",
]  # fmt: skip


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all of them: making it takes 10 s."""
    return tmp_path_factory.mktemp("prefect")


def environment(prefect_home: Path, **variables: str) -> dict[str, str]:
    """The environment without the settings of Prefect that importing `flows` has made here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return inherited | {"PREFECT_HOME": str(prefect_home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | variables


def start(prefect_home: Path, module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command, variables = [sys.executable, "-m", module, *arguments], environment(prefect_home, **variables)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of its own, on a free port of loopback: the address of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    home = tmp_path_factory.mktemp("server")
    variables = environment(home, PREFECT_UI_STATIC_DIRECTORY=str(home / "ui"))
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", port]
    with (home / "log").open("w") as log, subprocess.Popen(command, env=variables, stdout=log, stderr=log) as process:
        try:
            yield wait_for(f"http://127.0.0.1:{port}/api", process, home / "log")
        finally:
            process.terminate()


def wait_for(api: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """The address of the API, once it answers."""
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            httpx.get(f"{api}/health").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return api
    raise TimeoutError(log.read_text())


def test_the_whole_job_runs_in_one_command_and_prints_where_the_report_is(prefect_home: Path) -> None:
    ended = start(prefect_home, "catae", "train", "--source", "drawn:80", "--output-dir", "out", *SMALL)
    assert ended.returncode == 0, ended.stderr
    folder = Path("out/latest").resolve()
    assert ended.stdout == f"out/runs/{folder.name}/report.html\n"
    said = json.loads((folder / "run.json").read_text())
    assert (said["state"], said["training"]["epochs"]) == ("finished", 2)
    assert said["scores"]["pictures"] == said["split"]["test"]
    assert "epoch 2/2" in ended.stderr
    assert "ETA" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (folder / "report.html").stat().st_size > 50_000


def test_python_m_flows_train_is_the_same_command_and_the_same_seed_gives_the_same_pictures(prefect_home: Path) -> None:
    for name in ("one", "two"):
        ended = start(prefect_home, "flows.train", "--source", "drawn:80", "--output-dir", name, *SMALL)
        assert ended.returncode == 0, ended.stderr
    for file in (
        "split.json", "data.json", "model.safetensors", "curves.png", "reconstructions.png", "generated.png",
        "generated-gaussian.png", "interpolation.png", "interpolation.gif",
    ):  # fmt: skip
        assert Path("one/latest", file).read_bytes() == Path("two/latest", file).read_bytes(), file


def test_an_error_of_the_users_is_one_line_without_a_traceback_and_is_in_the_manifest(prefect_home: Path) -> None:
    Path("empty").mkdir()
    ended = start(prefect_home, "catae", "train", "--source", "empty", "--output-dir", "out")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "catae: empty: it is empty; correct --source (CATAE_SOURCE)\n"
    said = json.loads(Path("out/latest/run.json").read_text())
    assert (said["state"], said["error"]) == ("failed", f"UserError: {ended.stderr[7:-1]}")


def test_against_a_server_of_the_users_the_run_its_tasks_and_the_librarys_log_are_there(
    server: str, prefect_home: Path
) -> None:
    arguments = ["--source", "drawn:80", "--output-dir", "out", "--seed", "5", *SMALL]
    ended = start(prefect_home, "catae", "train", *arguments, PREFECT_API_URL=server)
    assert ended.returncode == 0, ended.stderr

    (flow_run,) = httpx.post(f"{server}/flow_runs/filter", json={}).json()
    assert (flow_run["name"], flow_run["state_type"]) == ("drawn:80 · 8 · seed 5", "COMPLETED")
    task_runs = httpx.post(f"{server}/task_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"}).json()
    assert [task_run["name"].rsplit("-", 1)[0] for task_run in task_runs] == [
        "read pictures", "split", "train", "draw the curves", "restore test pictures", "generate", "interpolate",
        "score", "write the report",
    ]  # fmt: skip
    log = [line["message"] for line in httpx.post(f"{server}/logs/filter", json={}).json()]
    assert sum(message.startswith("epoch ") for message in log) == 2, log


@pytest.mark.parametrize("place", ["in a shell", "as PID 1"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_job_soon_with_all_its_processes_and_the_same_command_goes_on(
    prefect_home: Path, number: signal.Signals, code: int, place: str
) -> None:
    endless = ["--source", "drawn:80", "--output-dir", "out", *SMALL, "--max-epochs", "100000", "--patience", "100000"]
    command = [sys.executable, "-m", "catae", "train", *endless]
    if place == "as PID 1":  # the first process of a container, to which no signal does anything of itself
        alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no process can be PID 1 here: unshare --pid is not allowed")
        command = [*alone, *command]

    def signalled(after: str, signals: int) -> float:
        """Starts the job, sends signals when it has said `after`; gives the seconds until all its processes ended."""
        with subprocess.Popen(command, env=environment(prefect_home), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if re.match(after, line):
                    break
            sent = time.monotonic()
            started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for _ in range(signals):
                os.kill(int(started[0]) if command[0] == "unshare" else process.pid, number)
            # Its children hold the other end of the pipe as well: it closes when the last of them has gone.
            rest = process.communicate(timeout=60)[1]
            assert process.returncode == code
            assert "Traceback" not in rest
            assert rest.endswith("catae: interrupted\n")
            return time.monotonic() - sent

    assert signalled("epoch +3/", signals=1) < 10
    first = json.loads(Path("out/latest/run.json").read_text())
    assert first["state"] == "interrupted"
    assert signalled("going on after epoch [3-9]", signals=2) < 10
    assert json.loads(Path("out/latest/run.json").read_text())["id"] == first["id"]
