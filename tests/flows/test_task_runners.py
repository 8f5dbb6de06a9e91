"""Sweeps on real task runners: processes, a Dask cluster and a Ray cluster, with two workers each."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from servers import Server, background, environment, free_port, running, start, until, with_database

from catae import settings
from catae.errors import UserError
from catae.sweep.state import Sweep
from flows import task_runners

TINY = ["--source", "drawn:60", "--image-size", "32", "--width", "4", "--max-epochs", "2", "--threads", "1"]
OVER = ["--latent-dim", "4,8", "--seed", "0..1"]
# Disable authentication: Ray would read a token from the home folder, which may be that of another cluster.
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
DASK = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    port = int(sys.argv[1])
    with LocalCluster(n_workers=2, threads_per_worker=1, scheduler_port=port, dashboard_address=None) as cluster:
        print("ready", flush=True)
        sys.stdin.read()
"""


def needs(library: str, extra: str) -> None:
    """Skip the test if a library is not installed."""
    if find_spec(library) is None:
        pytest.skip(f"pip install -e .[{extra}]")


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one Prefect database for all tests."""
    return with_database(tmp_path_factory.mktemp("prefect"))


@pytest.fixture(scope="module")
def by_processes(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Return a sweep that two processes of this machine ran."""
    return run_sweep(prefect_home, tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a Prefect server; without one, each worker of an existing cluster would start its own."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


def run_sweep(prefect_home: Path, output_dir: Path, *arguments: str, **variables: str) -> Sweep:
    """Run a sweep from the command line; return it."""
    flags = [*TINY, *OVER, "--output-dir", str(output_dir), *arguments]
    ended = start(prefect_home, "catae", "sweep", *flags, **variables)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    page = Path(ended.stdout.splitlines()[-1])
    assert page.name == "leaderboard.html"
    return Sweep(page.parent)


def outcomes(sweep: Sweep) -> list[Any]:
    """Return the digests and the scores of each run."""
    runs = [sweep.run_of(trial.number) for trial in sweep.trials()]
    assert len(runs) == 4
    return [(manifest["digests"], manifest["scores"]) for run in runs if run and (manifest := run.read())]


@pytest.fixture
def dask_address(tmp_path: Path) -> Iterator[str]:
    """Start a Dask cluster with two workers; yield its address."""
    needs("prefect_dask", "dask")
    script, port = tmp_path / "cluster.py", free_port()
    script.write_text(DASK)
    command = [sys.executable, str(script), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        yield f"tcp://127.0.0.1:{port}"
        process.stdin.close()
        process.wait(300)


@pytest.fixture
def ray_address(tmp_path: Path) -> Iterator[str]:
    """Start a Ray cluster with two workers; yield its address."""
    needs("prefect_ray", "ray")
    port, log = free_port(), tmp_path / "ray.log"
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # Ray limits the length of socket paths
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
            "--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={folder}",
        ]  # fmt: skip
        with background(log, command, environment(tmp_path, **RAY)):
            until(lambda: "Ray runtime started" in log.read_text(), log)
            yield f"127.0.0.1:{port}"


@pytest.mark.slow
def test_the_command_trains_every_combination_and_prints_the_leaderboard(by_processes: Sweep) -> None:
    assert [trial.state for trial in by_processes.trials()] == ["finished"] * 4
    board = json.loads(by_processes.board.read_text())
    assert board["headline"].startswith("latent_dim ")
    assert [entry["scores"]["runs"] for entry in board["entries"]] == [2, 2]
    pids = {found.read()["process"]["pid"] for n in range(1, 5) if (found := by_processes.run_of(n))}
    assert len(pids) == 2


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_by_its_address_gives_the_same_results(
    runner: str, request: pytest.FixtureRequest, by_processes: Sweep, server: Server, tmp_path: Path
) -> None:
    words = ["--runner", runner, "--address", request.getfixturevalue(f"{runner}_address")]
    done = run_sweep(server.home, tmp_path / "out", *words, PREFECT_API_URL=server.api, **RAY)
    assert outcomes(done) == outcomes(by_processes)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_that_the_sweep_starts_gives_the_same_results(
    runner: str, by_processes: Sweep, prefect_home: Path, tmp_path: Path
) -> None:
    needs(f"prefect_{runner}", runner)
    assert outcomes(run_sweep(prefect_home, tmp_path / "out", "--runner", runner)) == outcomes(by_processes)


@pytest.mark.slow
def test_an_interrupted_sweep_resumes_to_the_same_results(
    by_processes: Sweep, prefect_home: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "catae", "sweep", *TINY, *OVER, "--output-dir", str(tmp_path / "out")]
    with subprocess.Popen(command, env=environment(prefect_home), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("1 of 4: latent_dim 4, seed 0: finished"):
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    assert process.returncode == 143
    done = run_sweep(prefect_home, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "sweeps").iterdir()] == [done.id]
    assert outcomes(done) == outcomes(by_processes)


@pytest.mark.slow
def test_a_search_is_the_same_on_another_runner(prefect_home: Path, tmp_path: Path) -> None:
    needs("optuna", "search")
    needs("prefect_dask", "dask")
    tried = []
    for runner in ("process", "dask"):
        words = ["--learning-rate", "0.0001..0.01", "--trials", "4", "--runner", runner, "--output-dir", runner]
        ended = start(prefect_home, "catae", "sweep", *TINY, "--latent-dim", "4", *words)
        assert ended.returncode == 0, ended.stderr
        done = Sweep(Path(ended.stdout.splitlines()[-1]).parent)
        tried.append([trial.values for trial in done.trials()])
        assert len(outcomes(done)) == 4
    assert tried[0] == tried[1]


@pytest.mark.slow
def test_the_leaderboard_is_in_the_ui(server: Server) -> None:
    before = {flow_run["id"] for flow_run in server.ask("flow_runs/filter")}
    run_sweep(server.home, Path("out"), PREFECT_API_URL=server.api)
    (flow_run,) = [found for found in server.ask("flow_runs/filter") if found["id"] not in before]
    assert (flow_run["name"], flow_run["state_type"]) == ("latent_dim 4,8 · seed 0..1", "COMPLETED")
    shown = server.ask("artifacts/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
    (board,) = [artifact for artifact in shown if artifact["key"] == "catae-leaderboard"]
    assert "| 1 | " in board["data"]
    task_runs = server.ask("task_runs/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
    assert sorted(task_run["name"] for task_run in task_runs) == [
        f"latent_dim {size}, seed {seed}" for size in (4, 8) for seed in (0, 1)
    ]


def test_an_unreachable_cluster_is_one_line() -> None:
    for runner, scheme in (("dask", "tcp://"), ("ray", "ray://"), ("ray", "")):
        needs(f"prefect_{runner}", runner)
        address = f"{scheme}127.0.0.1:{free_port()}"
        with pytest.raises(UserError) as error:
            task_runners.check(settings.load({"runner": runner, "runner_address": address}))
        assert f"--runner-address is '{address}' (CATAE_RUNNER_ADDRESS): no cluster answers there" in str(error.value)


@pytest.mark.parametrize(
    ("runner", "address", "why"),
    [
        ("process", "tcp://10.0.0.5:8786", "--runner process uses this machine"),
        ("dask", "10.0.0.5", "it needs a host and a port, like tcp://10.0.0.5:8786"),
        ("dask", "tcp://10.0.0.5:port", "--runner-address is 'tcp://10.0.0.5:port'"),
    ],
)
def test_an_invalid_address_is_one_line(runner: str, address: str, why: str) -> None:
    if runner != "process":
        needs(f"prefect_{runner}", runner)
    with pytest.raises(UserError) as error:
        task_runners.check(settings.load({"runner": runner, "runner_address": address}))
    assert why in str(error.value)
    assert "\n" not in str(error.value)
