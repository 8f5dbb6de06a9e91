"""The flow in its own process, as a user starts it, on the embedded server and on another one."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from servers import SMALL, Server, environment, running, start

import flows


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one PREFECT_HOME for all tests: creating a database takes 10 s."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a separate Prefect server."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


def test_the_command_and_the_module_write_the_same_bytes(prefect_home: Path) -> None:
    ended = start(prefect_home, "catae", "train", "--source", "drawn:80", "--output-dir", "one", *SMALL)
    assert ended.returncode == 0, ended.stderr
    folder = Path("one/latest").resolve()
    assert ended.stdout == f"one/runs/{folder.name}/report.html\n"
    manifest = json.loads((folder / "run.json").read_text())
    assert (manifest["state"], manifest["training"]["epochs"]) == ("finished", 2)
    assert manifest["scores"]["pictures"] == manifest["split"]["test"]
    assert "epoch 2/2" in ended.stderr
    assert "ETA" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (folder / "report.html").stat().st_size > 50_000

    variables = {
        f"CATAE_{flag.removeprefix('--').replace('-', '_').upper()}": value
        for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True)
    }
    ended = start(prefect_home, "flows.train", CATAE_SOURCE="drawn:80", CATAE_OUTPUT_DIR="two", **variables)
    assert ended.returncode == 0, ended.stderr
    for file in (
        "split.json", "data.json", "model.safetensors", "curves.png", "reconstructions.png", "generated.png",
        "generated-gaussian.png", "generated-unwhitened.png", "interpolation.png", "interpolation.gif",
        "priors.safetensors", "nearest.png", "latents.png",
    ):  # fmt: skip
        assert Path("one/latest", file).read_bytes() == Path("two/latest", file).read_bytes(), file


def test_a_user_error_is_one_line_and_in_the_manifest(prefect_home: Path) -> None:
    Path("empty").mkdir()
    ended = start(prefect_home, "catae", "train", "--source", "empty", "--output-dir", "out")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "catae: empty: it is empty; correct --source (CATAE_SOURCE)\n"
    manifest = json.loads(Path("out/latest/run.json").read_text())
    assert (manifest["state"], manifest["error"]) == ("failed", f"UserError: {ended.stderr[7:-1]}")


def test_a_separate_server_receives_the_run_its_tasks_and_its_log(server: Server, prefect_home: Path) -> None:
    arguments = ["--source", "drawn:80", "--output-dir", "out", "--seed", "5", *SMALL]
    ended = start(prefect_home, "catae", "train", *arguments, PREFECT_API_URL=server.api)
    assert ended.returncode == 0, ended.stderr

    (flow_run,) = server.ask("flow_runs/filter")
    assert (flow_run["name"], flow_run["state_type"]) == ("drawn:80 · 8 · seed 5", "COMPLETED")
    task_runs = server.ask("task_runs/filter", sort="EXPECTED_START_TIME_ASC")
    assert [task_run["name"].rsplit("-", 1)[0] for task_run in task_runs] == [
        "read images", "split", "train", "draw curves", "reconstruct", "generate", "interpolate", "score",
        "measure samples", "map latents", "log results", "write report", "publish",
    ]  # fmt: skip
    log = [line["message"] for line in server.ask("logs/filter")]
    assert sum(message.startswith("epoch ") for message in log) == 2, log


@pytest.mark.parametrize(
    ("number", "code", "place"),
    [
        (signal.SIGINT, 130, "in a shell"),
        pytest.param(signal.SIGTERM, 143, "as PID 1", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "in a shell", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "as PID 1", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_all_processes_and_the_same_command_resumes(
    prefect_home: Path, number: signal.Signals, code: int, place: str
) -> None:
    endless = ["--source", "drawn:80", "--output-dir", "out", *SMALL, "--max-epochs", "100000", "--patience", "100000"]
    command = [sys.executable, "-m", "catae", "train", *endless]
    if place == "as PID 1":  # as in a container: PID 1 ignores signals without a handler
        alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
            pytest.skip("unshare --pid is not allowed, so no process can be PID 1")
        command = [*alone, *command]

    def run_and_signal(after: str, signals: int) -> None:
        """Start the job, send signals after the line `after`, and wait until all processes ended."""
        with subprocess.Popen(command, env=environment(prefect_home), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if re.match(after, line):
                    break
            started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for _ in range(signals):
                os.kill(int(started[0]) if command[0] == "unshare" else process.pid, number)
            # The child processes inherit the pipe: it closes when the last of them has ended.
            try:
                rest = process.communicate(timeout=300)[1]
            finally:
                process.kill()
            assert process.returncode == code
            assert "Traceback" not in rest
            assert rest.endswith("catae: interrupted\n")

    run_and_signal("epoch +3/", signals=1)
    first = json.loads(Path("out/latest/run.json").read_text())
    assert first["state"] == "interrupted"
    run_and_signal("resuming after epoch [3-9]", signals=2)
    assert json.loads(Path("out/latest/run.json").read_text())["id"] == first["id"]


@pytest.mark.parametrize("file", ["prefect.yaml", "deploy/docker.yaml", "deploy/kubernetes.yaml"])
def test_deployed_runs_get_the_same_defaults_for_prefect(file: str) -> None:
    variables = yaml.safe_load((ROOT / file).read_text())["definitions"]["work_pool"]["job_variables"]["env"]
    assert variables
    assert variables.items() <= flows.DEFAULTS.items()
