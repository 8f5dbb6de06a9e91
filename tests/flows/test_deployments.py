"""The deployments on a real server: from prefect.yaml and its variants, and from `catae serve`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import ROOT
from prefect.flows import load_flow_from_entrypoint
from servers import PREFECT, Server, background, environment, running, until

from catae.run import Run
from catae.system import files

NAMES = ["generate", "interpolate", "sweep", "train"]
TINY = {
    "data": {"source": "drawn:80", "image_size": 32},
    "model": {"width": 4, "latent_dim": 8},
    "output": {"samples": 4, "interpolation_steps": 5},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a Prefect server with a process pool and the deployments of prefect.yaml."""
    with running(tmp_path_factory.mktemp("server")) as server:
        prefect(server, "work-pool", "create", "local", "--type", "process")
        prefect(server, "deploy", "--all")
        yield server


def prefect(server: Server, *arguments: str, code: int = 0, **variables: str) -> str:
    """Run a command in the checkout, as the docs do; return its output."""
    ended = subprocess.run(
        [*PREFECT, "--no-prompt", *arguments],
        cwd=ROOT,
        env=environment(server.home, PREFECT_API_URL=server.api, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return " ".join((ended.stdout + ended.stderr).split())


def deployments(server: Server) -> dict[str, dict[str, Any]]:
    """Return the deployments on the server, by name."""
    return {found["name"]: found for found in server.ask("deployments/filter")}


def flow_runs(server: Server) -> list[dict[str, Any]]:
    """Return the flow runs on the server, newest first."""
    found: list[dict[str, Any]] = server.ask("flow_runs/filter", sort="EXPECTED_START_TIME_DESC")
    return found


def comparable(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return what must be equal in all variants of a deployment."""
    limit = deployment["global_concurrency_limit"]
    return {
        "tags": sorted(deployment["tags"]),
        "description": deployment["description"],
        "parameter_openapi_schema": deployment["parameter_openapi_schema"],
        "limit": limit and limit["limit"],
        "collisions": (deployment["concurrency_options"] or {}).get("collision_strategy"),
    }


def test_the_checkout_deploys_and_every_entrypoint_loads_its_flow(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    deployed = deployments(server)
    assert sorted(deployed) == NAMES
    for name, deployment in deployed.items():
        flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
        assert flow.fn.__module__.rsplit(".", 1)[-1] == name
        assert flow.name == ("catae-sweep" if name == "sweep" else "catae")
        assert sorted(deployment["tags"]) == sorted(["catae", name])
        assert deployment["work_pool_name"] == "local"
        assert deployment["description"] == str(flow.description).splitlines()[0]
    (nightly,) = deployed["train"]["schedules"]
    assert (nightly["schedule"]["cron"], nightly["active"]) == ("0 3 * * *", False)
    assert comparable(deployed["train"])["limit"] == 1
    assert comparable(deployed["train"])["collisions"] == "ENQUEUE"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"data": {"image_size": 60}}, "60 is not one of [16, 32, 64, 128, 256]"),
        ({"training": {"max_epochs": 0}}, "0 is less than the minimum of 1"),
        ({"training": {"seed": "three"}}, "'three' is not valid under any of the given schemas"),
        ({"training": {"max_epoch": 3}}, "Additional properties are not allowed ('max_epoch' was unexpected)"),
        ({"model": {"init": "zeros"}}, "'zeros' is not one of ['torch', 'kaiming', 'pca']"),
        ({"output": {"interpolation_pair": "one"}}, "'one' does not match"),
    ],
)
def test_the_server_rejects_an_invalid_value_with_its_reason(server: Server, bad: dict[str, Any], message: str) -> None:
    before = len(flow_runs(server))
    train = deployments(server)["train"]["id"]
    response = httpx.post(f"{server.api}/deployments/{train}/create_flow_run", json={"parameters": bad})
    assert response.status_code == 409
    assert message in response.json()["detail"]
    assert len(flow_runs(server)) == before


def test_the_command_line_rejects_an_invalid_value_before_scheduling(server: Server) -> None:
    before = len(flow_runs(server))
    output = prefect(server, "deployment", "run", "catae/train", "--param", 'data={"image_size": 60}', code=1)
    assert "Validation failed for field 'data.image_size'" in output
    assert len(flow_runs(server)) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_variants_differ_only_in_their_pools_and_their_jobs_are_valid(server: Server, kind: str) -> None:
    pytest.importorskip(f"prefect_{kind}", reason="pip install -e .[deploy]")
    local = {name: comparable(deployment) for name, deployment in deployments(server).items()}
    template = ["--base-job-template", "deploy/kubernetes-pool.json"] if kind == "kubernetes" else []
    prefect(server, "work-pool", "create", kind, "--type", kind, *template)
    prefect(server, "deploy", "--all", "--prefect-file", f"deploy/{kind}.yaml")
    try:
        deployed = deployments(server)
        assert {name: comparable(deployment) for name, deployment in deployed.items()} == local
        assert {deployment["work_pool_name"] for deployment in deployed.values()} == {kind}
        assert not any(deployment["pull_steps"] for deployment in deployed.values())
        job = json.loads(run_script(server, JOB[kind], str(deployed["train"]["id"])))
    finally:
        prefect(server, "deploy", "--all")
    assert job["command"] == "prefect flow-run execute"
    assert job["env"]["PREFECT_API_URL"].endswith("/api")
    EXPECTED[kind](job)


# Prepare the job of a run as a worker does: the template of the pool, the variables of the deployment, and its own.
PREPARE = """
import asyncio, json, sys
from prefect.client.orchestration import get_client
from {module} import {name}

async def main():
    async with get_client() as client:
        deployment = await client.read_deployment(sys.argv[1])
        pool = await client.read_work_pool(deployment.work_pool_name)
        run = await client.create_flow_run_from_deployment(deployment.id)
        flow = await client.read_flow(deployment.flow_id)
        configuration = await {name}.from_template_and_values(pool.base_job_template, deployment.job_variables)
        configuration.prepare_for_flow_run(run, deployment, flow, pool, "a worker")
        await client.delete_flow_run(run.id)
        print(configuration.model_dump_json())

asyncio.run(main())
"""
JOB = {
    "docker": PREPARE.format(module="prefect_docker.worker", name="DockerWorkerJobConfiguration"),
    "kubernetes": PREPARE.format(module="prefect_kubernetes.worker", name="KubernetesWorkerJobConfiguration"),
}


def run_script(server: Server, code: str, *arguments: str) -> str:
    """Run a script that uses the server; return its last line."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(server.home, PREFECT_API_URL=server.api),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


def check_docker(job: dict[str, Any]) -> None:
    assert job["image"] == "catae"
    assert job["volumes"] == ["catae-artifacts:/artifacts"]
    assert job["container_create_kwargs"]["read_only"]
    assert job["container_create_kwargs"]["cap_drop"] == ["ALL"]


def check_kubernetes(job: dict[str, Any]) -> None:
    pod = job["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["args"]) == ("catae", ["prefect", "flow-run", "execute"])
    assert {variable["name"] for variable in container["env"]} >= {"PREFECT_API_URL"}
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
    assert pod["securityContext"]["runAsNonRoot"]
    claim = yaml.safe_load((ROOT / "deploy" / "kubernetes-volume.yaml").read_text())["metadata"]["name"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    assert container["volumeMounts"][0] == {"name": pod["volumes"][0]["name"], "mountPath": "/artifacts"}
    assert "{{" not in json.dumps(job)


EXPECTED = {"docker": check_docker, "kubernetes": check_kubernetes}


@pytest.mark.slow
def test_empty_fields_take_their_values_from_the_workers_environment(server: Server, tmp_path: Path) -> None:
    variables = environment(
        server.home, PREFECT_API_URL=server.api, PREFECT_WORKER_QUERY_SECONDS="2", CATAE_SEED="7", CATAE_MAX_EPOCHS="9",
        CATAE_OUTPUT_DIR=str(tmp_path / "out"),
    )  # fmt: skip
    parameters = TINY | {"training": {"max_epochs": 2}}
    flags = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    with background(tmp_path / "worker.log", [*PREFECT, "worker", "start", "--pool", "local"], variables):
        prefect(server, "deployment", "run", "catae/train", *flags, "--watch")
        trained = Run((tmp_path / "out" / "latest").resolve())
        prefect(server, "deployment", "run", "catae/generate", '--param=samples={"samples": 9}', "--watch")
        prefect(server, "deployment", "run", "catae/interpolate", "--param=path=spherical", "--watch")
    recorded = files.read_json(trained.settings)
    assert (recorded["max_epochs"], recorded["seed"]) == (
        {"value": 2, "from": "given"},
        {"value": 7, "from": "environment"},
    )
    assert recorded["width"]["from"] == "given"
    assert recorded["patience"]["from"] == "default"
    assert (trained.path / "generated-randn-9-seed-7.png").stat().st_size > 1000
    (animation,) = trained.path.glob("interpolation-*.gif")
    newest = flow_runs(server)[:3]
    assert [(run["name"], run["state_name"]) for run in newest] == [
        ("interpolation · seed 7", "Completed"), ("9 images · randn · seed 7", "Completed"),
        ("drawn:80 · 8 · seed 7", "Completed"),
    ]  # fmt: skip
    assert animation.stem == f"interpolation-{newest[0]['id']}"
    assert {tag for run in newest for tag in run["tags"]} == {"catae", "train", "generate", "interpolate"}


def serve(server: Server, folder: Path, **variables: str) -> Any:
    """Start `catae serve` in the background; it logs to `<folder>/serve.log`."""
    command = [sys.executable, "-m", "catae", "serve"]
    return background(folder / "serve.log", command, environment(server.home, PREFECT_API_URL=server.api, **variables))


@pytest.mark.slow
def test_serve_has_the_same_deployments_and_a_stopped_run_resumes_exactly(server: Server, tmp_path: Path) -> None:
    expected = {name: comparable(deployment) for name, deployment in deployments(server).items()}
    out, log = tmp_path / "out", tmp_path / "serve.log"
    # Epochs of 0.1 s: training must last until it is stopped.
    long_training = TINY | {"data": {"source": "drawn:200"}, "model": {"latent_dim": 8, "width": 16}}
    long_training |= {"training": {"max_epochs": 60, "patience": 60}}
    with serve(server, tmp_path, CATAE_OUTPUT_DIR=str(out)) as process:
        until(lambda: "being served" in log.read_text(), log)
        served = deployments(server)
        assert {deployment["work_pool_name"] for deployment in served.values()} == {None}
        assert {name: comparable(deployment) for name, deployment in served.items()} == expected
        train = served["train"]["id"]
        run = server.ask(f"deployments/{train}/create_flow_run", parameters=long_training)
        until(lambda: " epoch 20/60" in log.read_text(), log)
        process.terminate()
        assert process.wait(300) == 0
    prefect(server, "deploy", "--all")

    ended = httpx.get(f"{server.api}/flow_runs/{run['id']}").json()["state"]
    assert (ended["type"], ended["message"]) == ("CANCELLED", "Runner is shutting down.")
    interrupted = Run((out / "latest").resolve())
    assert interrupted.read()["state"] == "interrupted"
    assert not [line for line in processes() if "prefect.flow_engine" in line and run["id"] in line]

    flags = [
        f"--{name.replace('_', '-')}={value}" for form in long_training.values() for name, value in form.items()
    ]  # fmt: skip
    for folder in (out, tmp_path / "uninterrupted"):
        subprocess.run(
            [sys.executable, "-m", "catae", "train", *flags, "--output-dir", str(folder)],
            env=environment(server.home, PREFECT_API_URL=server.api),
            check=True,
            timeout=300,
        )
    assert Run((out / "latest").resolve()).id == interrupted.id
    assert interrupted.model.read_bytes() == (tmp_path / "uninterrupted" / "latest" / "model.safetensors").read_bytes()


def processes() -> list[str]:
    """Return the command line and the environment of each process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_text().replace("\0", " ") + (folder / "environ").read_text())
        except OSError:
            continue  # the process has ended, or belongs to another user
    return found


def test_serve_without_a_server_is_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "catae", "serve"], env=environment(Path.cwd()), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("catae: PREFECT_API_URL is not set")
    assert ended.stderr.count("\n") == 1


def test_serve_validates_the_environment_before_it_starts() -> None:
    variables = environment(Path.cwd(), CATAE_WIDTH="0")
    ended = subprocess.run(
        [sys.executable, "-m", "catae", "serve"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 2
    assert "CATAE_WIDTH (in environment) is '0'" in ended.stderr
