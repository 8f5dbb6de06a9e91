"""compose.yaml, started and used as users do it, in Chromium; skipped without a Docker engine."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import browsing, needs_chromium
from containers import ROOT, build, docker, require_engine
from PIL import Image
from servers import free_port, until

pytestmark = [pytest.mark.container, pytest.mark.slow]

PASSWORDS = {"POSTGRES_PASSWORD": "p@ss w/ord:1", "PREFECT_PASSWORD": "s3cret"}
Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Return a function that runs Compose on compose.yaml: `docker compose` or docker-compose."""
    require_engine()
    command = ["docker", "compose"] if docker("compose", "version").returncode == 0 else ["docker-compose"]
    if command == ["docker-compose"] and not shutil.which("docker-compose"):
        pytest.skip("no Docker Compose: apt-get install docker-compose")
    command += ["-f", str(ROOT / "compose.yaml"), "--project-directory", str(tmp_path_factory.mktemp("project"))]
    command += ["-p", f"catae-test-{uuid.uuid4().hex[:8]}"]

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], env=os.environ | variables, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=400, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def stack(compose: Compose) -> Iterator[dict[str, str]]:
    """Start all services; return the variables of the environment that they were started with."""
    variables = PASSWORDS | {
        "IMAGE": build("catae:test"),
        "POSTGRES_IMAGE": postgres(),
        "PREFECT_PORT": str(free_port()),
        "TENSORBOARD_PORT": str(free_port()),
    }
    try:
        started = compose("up", "-d", "--no-build", **variables)
        assert started.returncode == 0, started.stderr
        yield variables
    finally:
        compose("down", "--volumes", **variables)


def postgres() -> str:
    """Return the tag of PostgreSQL's official image, or of a substitute if that cannot be pulled."""
    official = "postgres:17-bookworm"
    if docker("image", "inspect", official).returncode and docker("pull", "--quiet", official).returncode:
        return build("postgres:substitute", (ROOT / "tests/container/postgres.Dockerfile").read_text())
    return official


def test_a_missing_password_is_an_error(compose: Compose) -> None:
    for missing in PASSWORDS:
        ended = compose("config", **PASSWORDS | {missing: ""})
        assert ended.returncode != 0
        assert missing in ended.stderr


@needs_chromium
def test_a_started_run_is_shown_in_the_ui_and_in_tensorboard(
    compose: Compose, stack: dict[str, str], tmp_path: Path
) -> None:
    form = ['data={"source": "drawn:200"}', 'model={"width": 8}', 'training={"max_epochs": 2}']
    parameters = [word for part in form for word in ("--param", part)]
    ended = compose(
        "exec", "-T", "runner", "prefect", "deployment", "run", "catae/train", "--watch", *parameters, **stack
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr + compose("logs", "runner", **stack).stdout

    server, tensorboard = f"http://127.0.0.1:{stack['PREFECT_PORT']}", f"http://127.0.0.1:{stack['TENSORBOARD_PORT']}"
    reports = {"artifacts": {"key": {"any_": ["catae-report"]}}}
    assert httpx.post(f"{server}/api/artifacts/filter", json=reports).status_code == 401
    password = f"admin:{stack['PREFECT_PASSWORD']}"
    (report,) = httpx.post(f"{server}/api/artifacts/filter", json=reports, auth=tuple(password.split(":"))).json()

    for service in ("server", "runner", "tensorboard", "database"):
        container = compose("ps", "-q", service, **stack).stdout.strip()
        wait_until_healthy(container)
        published = docker("port", container).stdout
        assert all("-> 127.0.0.1:" in line for line in published.splitlines()), published

    check_pages(server, password, report["id"], tensorboard, tmp_path)
    assert {file.name for file in tmp_path.glob("*.png")} == {"report.png", "curves.png"}


def has_colour(chart: Any) -> bool:
    """Return whether a chart shows a curve: its grid is grey."""
    pixels = np.asarray(Image.open(BytesIO(chart.screenshot())).convert("RGB"), np.int64)
    return bool(np.ptp(pixels, axis=2).max() > 20)


def wait_until_healthy(container: str) -> None:
    """Wait until a container is healthy."""
    until(lambda: docker("inspect", "-f", "{{.State.Health.Status}}", container).stdout == "healthy\n")


def check_pages(server: str, password: str, report: str, tensorboard: str, screenshots: Path) -> None:
    """Log in, open the report and the curves, and write a screenshot of each."""
    with browsing(viewport={"width": 1280, "height": 900}) as page:
        page.goto(server)
        page.locator("input[type=password]").fill(password)
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard**")
        page.goto(f"{server}/v2/artifacts/artifact/{report}")
        page.get_by_role("heading", name="Reconstructions").wait_for()
        loaded = "Array.from(document.images).filter(image => image.alt && image.naturalWidth > 0).length"
        page.wait_for_function(f"{loaded} == 6")
        page.screenshot(path=screenshots / "report.png", full_page=True)

        page.goto(f"{tensorboard}/?tagFilter=loss#timeseries")
        page.get_by_text("loss/test", exact=True).first.wait_for()
        charts = page.locator("line-chart canvas")
        until(lambda: charts.count() == 2 and all(has_colour(chart) for chart in charts.all()))
        page.screenshot(path=screenshots / "curves.png")
