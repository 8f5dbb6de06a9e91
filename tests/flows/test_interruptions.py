"""Runs of a deployment that are cancelled or killed, and resumed."""

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
from catae import settings
from catae.run import Run
from flows import parameters

# Epochs of 0.3 s: training must last until it is killed.
PARAMETERS = {
    "data": {"source": "drawn:200"},
    "model": {"latent_dim": 8, "width": 32},
    "training": {"max_epochs": 40, "patience": 40},
    "output": {"samples": 4, "interpolation_steps": 5},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with the deployments and the automation, which waits for one heartbeat instead of three."""
    automation = yaml.safe_load((ROOT / "deploy/zombies.yaml").read_text())
    assert automation["trigger"]["within"] == 3 * int(flows.DEFAULTS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    quick = tmp_path_factory.mktemp("automation") / "zombies.yaml"
    quick.write_text(yaml.safe_dump(automation | {"trigger": automation["trigger"] | {"within": 40}}))
    with running(tmp_path_factory.mktemp("server")) as server:
        for command in (
            ["work-pool", "create", "local", "--type", "process"],
            ["deploy", "--all"],
            ["automation", "create", "--from-file", str(quick)],
        ):
            variables = environment(server.home, PREFECT_API_URL=server.api)
            subprocess.run(
                [*PREFECT, "--no-prompt", *command], cwd=ROOT, env=variables, capture_output=True, check=True
            )
        yield server


@contextmanager
def worker(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker that writes runs to `out`."""
    variables = environment(
        server.home,
        PREFECT_API_URL=server.api,
        PREFECT_WORKER_QUERY_SECONDS="2",
        CATAE_OUTPUT_DIR=str(Path("out").absolute()),
    )
    with background(Path("worker.log"), [*PREFECT, "worker", "start", "--pool", "local"], variables) as process:
        yield process


def create_flow_run(server: Server) -> str:
    """Create a flow run as the UI does; return its id."""
    (train,) = (found["id"] for found in server.ask("deployments/filter") if found["name"] == "train")
    return str(server.ask(f"deployments/{train}/create_flow_run", parameters=PARAMETERS)["id"])


def until_epoch(number: int) -> None:
    """Wait until training has reached an epoch."""
    until(lambda: f" epoch {number:>2}/40" in Path("worker.log").read_text(), Path("worker.log"))


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the child processes: the runs."""
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


def until_state(server: Server, flow_run: str, name: str) -> str:
    """Wait for a state of the flow run; return its message."""

    def state() -> dict[str, str]:
        found: dict[str, str] = httpx.get(f"{server.api}/flow_runs/{flow_run}", timeout=30).json()["state"]
        return found

    until(lambda: state()["name"] == name, Path("worker.log"))
    return state()["message"]


def test_a_cancelled_and_killed_run_resumes_to_the_same_weights(server: Server, tmp_path: Path) -> None:
    newest = Run(Path("out/latest"))
    with worker(server) as process:
        first = create_flow_run(server)
        until_epoch(5)
        (job,) = children(process)
        server.ask(f"flow_runs/{first}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})  # as the UI does
        until(lambda: newest.read()["state"] == "interrupted")
        until(lambda: not Path(f"/proc/{job}").exists())
        assert until_state(server, first, "Cancelled") == "Flow run was cancelled successfully."
        assert newest.read()["error"] == "TerminationSignal"

        second = create_flow_run(server)
        until_epoch(15)
        os.kill(children(process)[0], signal.SIGKILL)
        assert "status code: -9" in until_state(server, second, "Crashed")
        assert newest.state() == "killed"

        third = create_flow_run(server)
        until_state(server, third, "Completed")
    assert (newest.read()["state"], newest.read()["attempts"]) == ("finished", 3)
    assert len(list(Path("out/runs").iterdir())) == 1
    assert newest.model.read_bytes() == undisturbed(tmp_path)
    (log,) = (server.ask("logs/filter", logs={"flow_run_id": {"any_": [flow_run]}}, limit=200) for flow_run in [third])
    assert any(line["message"].startswith("resuming after epoch ") for line in log)  # the UI shows it


def test_the_automation_marks_a_run_whose_process_and_worker_were_killed(server: Server) -> None:
    with worker(server) as process:
        killed = create_flow_run(server)
        until_epoch(5)
        (job,) = children(process)
        process.kill()
        os.kill(job, signal.SIGKILL)
    until(lambda: Run(Path("out/latest")).state() == "killed")
    assert "Run it again with the same settings" in until_state(server, killed, "Crashed")


def test_ctrl_c_ends_served_runs_with_a_checkpoint(server: Server) -> None:
    # `serve` removes the work pool from the deployments, so this test is the last.
    variables = environment(server.home, PREFECT_API_URL=server.api, CATAE_OUTPUT_DIR=str(Path("out").absolute()))
    serve = ["setsid", sys.executable, "-m", "catae", "serve"]  # in its own process group, as in a shell
    with background(Path("worker.log"), serve, variables) as process:
        until(lambda: "being served" in Path("worker.log").read_text(), Path("worker.log"))
        served = create_flow_run(server)
        until_epoch(5)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(300) == 0
    assert until_state(server, served, "Cancelled") == "Runner is shutting down."
    assert Run(Path("out/latest")).read()["state"] == "interrupted"


def undisturbed(folder: Path) -> bytes:
    """Return the final weights of the same training without interruptions."""
    resolved = settings.load(parameters.merge(*PARAMETERS.values()) | {"output_dir": folder / "undisturbed"})
    return jobs.train(resolved).model.read_bytes()
