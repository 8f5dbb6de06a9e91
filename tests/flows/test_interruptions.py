"""Runs of a deployment that are cancelled and killed, and what the same run makes of it when it is asked for again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jobs
import pytest
import yaml
from conftest import ROOT
from servers import PREFECT, Server, background, environment, running, until

import flows
from catae import run, settings
from catae.run import Run
from flows import parameters

# Epochs of 0.3 s: a run that is over before it can be killed proves nothing.
PARAMETERS = {
    "data": {"source": "drawn:200"},
    "model": {"latent_dim": 8, "width": 32},
    "training": {"max_epochs": 40, "patience": 40},
    "pictures": {"samples": 4, "interpolation_steps": 5},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the project's deployments, and its automation, which waits for one heartbeat in place of three."""
    automation = yaml.safe_load((ROOT / "deploy/zombies.yaml").read_text())
    assert automation["trigger"]["within"] == 3 * int(flows.DEFAULTS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    hasty = tmp_path_factory.mktemp("automation") / "zombies.yaml"
    hasty.write_text(yaml.safe_dump(automation | {"trigger": automation["trigger"] | {"within": 40}}))
    with running(tmp_path_factory.mktemp("server")) as server:
        for command in (
            ["work-pool", "create", "local", "--type", "process"],
            ["deploy", "--all"],
            ["automation", "create", "--from-file", str(hasty)],
        ):
            variables = environment(server.home, PREFECT_API_URL=server.api)
            subprocess.run(
                [*PREFECT, "--no-prompt", *command], cwd=ROOT, env=variables, capture_output=True, check=True
            )
        yield server


@contextmanager
def worker(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that trains into the test's folder `out`."""
    variables = environment(
        server.home,
        PREFECT_API_URL=server.api,
        PREFECT_WORKER_QUERY_SECONDS="2",
        CATAE_OUTPUT_DIR=str(Path("out").absolute()),
    )
    with background(Path("worker.log"), [*PREFECT, "worker", "start", "--pool", "local"], variables) as process:
        yield process


def begin(server: Server) -> str:
    """Asks for a run as the UI does; gives its id."""
    (train,) = (found["id"] for found in server.ask("deployments/filter") if found["name"] == "train")
    return str(server.ask(f"deployments/{train}/create_flow_run", parameters=PARAMETERS)["id"])


def until_epoch(number: int) -> None:
    """Waits until training has come so far."""
    until(lambda: f" epoch {number:>2}/40" in Path("worker.log").read_text(), 120, Path("worker.log"))


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that it has started: the runs."""
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


def until_state(server: Server, flow_run: str, name: str, seconds: float) -> str:
    """Waits for the run's state; gives its message."""

    def state() -> dict[str, str]:
        found: dict[str, str] = httpx.get(f"{server.api}/flow_runs/{flow_run}", timeout=30).json()["state"]
        return found

    until(lambda: state()["name"] == name, seconds, Path("worker.log"))
    return state()["message"]


def test_a_run_that_is_cancelled_and_then_killed_ends_as_if_it_had_not_been(server: Server, tmp_path: Path) -> None:
    newest = Run(Path("out/latest"))
    with worker(server) as process:
        first = begin(server)
        until_epoch(5)
        (job,) = children(process)
        server.ask(f"flow_runs/{first}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})  # as the UI does
        until(lambda: newest.read()["state"] == "interrupted", 10)
        until(lambda: not Path(f"/proc/{job}").exists(), 10)
        assert until_state(server, first, "Cancelled", 60) == "Flow run was cancelled successfully."
        assert newest.read()["error"] == "TerminationSignal"

        second = begin(server)
        until_epoch(15)
        os.kill(children(process)[0], signal.SIGKILL)
        assert "status code: -9" in until_state(server, second, "Crashed", 30)
        assert run.state(newest) == "killed"

        third = begin(server)
        until_state(server, third, "Completed", 120)
    assert (newest.read()["state"], newest.read()["attempts"]) == ("finished", 3)
    assert len(list(Path("out/runs").iterdir())) == 1
    assert newest.model.read_bytes() == undisturbed(tmp_path)
    (log,) = (server.ask("logs/filter", logs={"flow_run_id": {"any_": [flow_run]}}, limit=200) for flow_run in [third])
    assert any(line["message"].startswith("going on after epoch ") for line in log)  # it is to be seen in the UI


def test_a_run_whose_process_and_worker_are_killed_is_marked_by_the_automation(server: Server) -> None:
    with worker(server) as process:
        killed = begin(server)
        until_epoch(5)
        (job,) = children(process)
        process.kill()
        os.kill(job, signal.SIGKILL)
    until(lambda: run.state(Run(Path("out/latest"))) == "killed", 10)
    assert "Run it again with the same settings" in until_state(server, killed, "Crashed", 90)


def test_ctrl_c_lets_what_is_served_end_with_an_exact_checkpoint(server: Server) -> None:
    # From now on the deployments are without the pool, and so this test is the last.
    variables = environment(server.home, PREFECT_API_URL=server.api, CATAE_OUTPUT_DIR=str(Path("out").absolute()))
    serve = ["setsid", sys.executable, "-m", "catae", "serve"]  # with a process group of its own, as a shell gives it
    with background(Path("worker.log"), serve, variables) as process:
        until(lambda: "being served" in Path("worker.log").read_text(), 90, Path("worker.log"))
        served = begin(server)
        until_epoch(5)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
    assert until_state(server, served, "Cancelled", 1) == "Runner is shutting down."
    assert Run(Path("out/latest")).read()["state"] == "interrupted"


def undisturbed(folder: Path) -> bytes:
    """The weights that such a training ends with."""
    resolved = settings.load(parameters.given(*PARAMETERS.values()) | {"output_dir": folder / "calm"})
    return jobs.train(resolved).model.read_bytes()
