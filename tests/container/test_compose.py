"""compose.yaml, brought up and walked through as its user does, in a real browser; skipped where no engine answers."""

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
from browser import CHROMIUM, needs_chromium
from containers import ROOT, build, docker, free_port, require_engine, until
from PIL import Image

pytestmark = [pytest.mark.container, pytest.mark.slow]

PASSWORDS = {"POSTGRES_PASSWORD": "p@ss w/ord:1", "PREFECT_PASSWORD": "s3cret"}
Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Runs Compose on the project's file, with what stands in the environment: version 2, or docker-compose."""
    require_engine()
    command = ["docker", "compose"] if docker("compose", "version").returncode == 0 else ["docker-compose"]
    if command == ["docker-compose"] and not shutil.which("docker-compose"):
        pytest.skip("there is no Compose: apt-get install docker-compose")
    command += ["-f", str(ROOT / "compose.yaml"), "--project-directory", str(tmp_path_factory.mktemp("project"))]
    command += ["-p", f"catae-test-{uuid.uuid4().hex[:8]}"]

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], env=os.environ | variables, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=400, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def box(compose: Compose) -> Iterator[dict[str, str]]:
    """All of it, up and healthy; gives the variables that it was started with."""
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
    """PostgreSQL's own image, where it is or can be had, or a stand-in."""
    own = "postgres:17-bookworm"
    if docker("image", "inspect", own).returncode and docker("pull", "--quiet", own).returncode:
        return build("postgres:stand-in", (ROOT / "tests/container/postgres.Dockerfile").read_text())
    return own


def test_no_password_is_made_up(compose: Compose) -> None:
    for missing in PASSWORDS:
        said = compose("config", **PASSWORDS | {missing: ""})
        assert said.returncode != 0
        assert missing in said.stderr


@needs_chromium
def test_a_run_that_is_asked_for_ends_in_the_ui_and_in_tensorboard(
    compose: Compose, box: dict[str, str], tmp_path: Path
) -> None:
    form = ['data={"source": "drawn:200"}', 'model={"width": 8}', 'training={"max_epochs": 2}']
    parameters = [word for part in form for word in ("--param", part)]
    asked = compose(
        "exec", "-T", "runner", "prefect", "deployment", "run", "catae/train", "--watch", *parameters, **box
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr + compose("logs", "runner", **box).stdout

    server, tensorboard = f"http://127.0.0.1:{box['PREFECT_PORT']}", f"http://127.0.0.1:{box['TENSORBOARD_PORT']}"
    reports = {"artifacts": {"key": {"any_": ["catae-report"]}}}
    assert httpx.post(f"{server}/api/artifacts/filter", json=reports).status_code == 401
    password = f"admin:{box['PREFECT_PASSWORD']}"
    (report,) = httpx.post(f"{server}/api/artifacts/filter", json=reports, auth=tuple(password.split(":"))).json()

    for service in ("server", "runner", "tensorboard", "database"):
        container = compose("ps", "-q", service, **box).stdout.strip()
        assert is_healthy(container), service
        published = docker("port", container).stdout
        assert all("-> 127.0.0.1:" in line for line in published.splitlines()), published

    look(server, password, report["id"], tensorboard, tmp_path)
    assert {file.name for file in tmp_path.glob("*.png")} == {"report.png", "curves.png"}


def has_colour(chart: Any) -> bool:
    """Whether a curve is drawn: the grid behind it is grey."""
    pixels = np.asarray(Image.open(BytesIO(chart.screenshot())).convert("RGB"), np.int64)
    return bool(np.ptp(pixels, axis=2).max() > 20)


def is_healthy(container: str) -> bool:
    """Whether its health check says so, now or in a minute."""
    return until(lambda: docker("inspect", "-f", "{{.State.Health.Status}}", container).stdout == "healthy\n", 60)


def look(server: str, password: str, report: str, tensorboard: str, pictures: Path) -> None:
    """Logs in, reads the report and looks at the curves; leaves a screenshot of each."""
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=arguments) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(server)
        page.locator("input[type=password]").fill(password)
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard**")
        page.goto(f"{server}/v2/artifacts/artifact/{report}")
        page.get_by_role("heading", name="Restorations").wait_for()
        shown = "Array.from(document.images).filter(image => image.alt && image.naturalWidth > 0).length"
        page.wait_for_function(f"{shown} == 6")
        page.screenshot(path=pictures / "report.png", full_page=True)

        page.goto(f"{tensorboard}/?tagFilter=loss#timeseries")
        page.get_by_text("loss/test", exact=True).first.wait_for()
        charts = page.locator("line-chart canvas")
        assert until(lambda: charts.count() == 2 and all(has_colour(chart) for chart in charts.all()), 30)
        page.screenshot(path=pictures / "curves.png")
