"""Prefect's UI in a real browser: the form, the run, its report, its table and its progress.

Screenshots are written to the folder in the variable SCREENSHOTS, or else to a temporary one.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import browser_context, needs_chromium
from servers import Server, background, environment, running, until

pytestmark = [pytest.mark.slow, needs_chromium]
WIDE, NARROW = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}


@dataclass
class UI:
    """A server with served deployments, and a browser's context."""

    server: Server
    context: Any
    screenshots: Path
    log: Path

    def page(self, address: str, size: dict[str, int] = WIDE, root: str = "/v2") -> Any:
        """Open a page of the UI."""
        page = self.context.new_page()
        page.set_viewport_size(size)
        page.goto(f"http://127.0.0.1:{self.server.port}{root}/{address}")
        return page

    def form(self) -> Any:
        """Open the form that starts a training run."""
        train = httpx.get(f"{self.server.api}/deployments/name/catae/train").json()["id"]
        page = self.page(f"deployments/deployment/{train}/run")
        page.get_by_label("Source").wait_for()
        return page

    def save_screenshot(self, page: Any, name: str) -> None:
        """Write a screenshot of the whole page, including what needs scrolling."""
        page.wait_for_timeout(1000)
        size = page.viewport_size
        height = page.evaluate("Math.max(...Array.from(document.querySelectorAll('*'), e => e.scrollHeight))")
        page.set_viewport_size({**size, "height": min(height, 8000)})
        page.wait_for_timeout(500)
        page.screenshot(path=self.screenshots / f"{name}.png", full_page=True)
        page.set_viewport_size(size)

    def artifacts(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a run, by key."""
        found = self.server.ask("artifacts/filter", flow_runs={"id": {"any_": [run["id"]]}})
        return {artifact["key"]: artifact for artifact in found}


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UI]:
    """Start the server, `catae serve` and the browser."""
    home = tmp_path_factory.mktemp("ui")
    screenshots = Path(os.environ.get("SCREENSHOTS") or home / "screenshots")
    with running(home, PREFECT_UI_API_URL="/api") as server:
        variables = environment(home, PREFECT_API_URL=server.api, CATAE_OUTPUT_DIR=str(home / "out"), CATAE_SEED="7")
        with (
            background(home / "serve.log", [sys.executable, "-m", "catae", "serve"], variables),
            browser_context() as context,
        ):
            until(lambda: "being served" in (home / "serve.log").read_text(), home / "serve.log")
            yield UI(server, context, screenshots, home / "serve.log")


def submit(page: Any) -> bool:
    """Click the button of the form; return whether that created a run.

    In about 1 of 30 cases the click has no effect, and the server receives no request. The caller then clicks again.
    """
    answers: list[Any] = []
    page.on("response", lambda answer: answers.append(answer) if answer.url.endswith("/create_flow_run") else None)
    page.get_by_role("button", name="Submit").click()
    for _ in range(40):
        page.wait_for_timeout(250)
        if answers:
            return bool(answers[0].status == httpx.codes.CREATED)
    return False


@pytest.fixture(scope="module")
def run(ui: UI) -> dict[str, Any]:
    """Start a run from the form and wait until it ends; return the flow run."""
    page = ui.form()
    ui.save_screenshot(page, "form")
    page.get_by_label("Source").fill("drawn:600")
    page.get_by_label("Image size").click()
    page.get_by_role("option", name="64").click()
    page.get_by_label("Latent dim").fill("16")
    page.get_by_label("Width").fill("16")
    page.get_by_label("Max epochs").fill("12")
    until(lambda: submit(page))
    (flow_run,) = until(lambda: ui.server.ask("flow_runs/filter"))

    def ended() -> dict[str, Any] | None:
        current: dict[str, Any] = httpx.get(f"{ui.server.api}/flow_runs/{flow_run['id']}").json()
        return current if current["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    until(lambda: "catae-progress" in ui.artifacts(flow_run), ui.log)
    progress = ui.page(f"artifacts/artifact/{ui.artifacts(flow_run)['catae-progress']['id']}")
    progress.get_by_text("Progress:").wait_for()
    ui.save_screenshot(progress, "progress-while-training")
    final: dict[str, Any] = until(ended, ui.log)
    return final


def test_a_run_from_the_form_gets_the_filled_fields(
    run: dict[str, Any],
) -> None:
    assert run["state_type"] == "COMPLETED"
    assert run["parameters"] == {
        "data": {"source": "drawn:600", "image_size": 64},
        "model": {"latent_dim": 16, "width": 16},
        "training": {"max_epochs": 12},
        "output": {},
    }
    assert run["name"] == "drawn:600 · 16 · seed 7"


def test_the_form_rejects_an_invalid_value_with_its_reason(ui: UI, run: dict[str, Any]) -> None:
    before = len(ui.server.ask("flow_runs/filter"))
    page = ui.form()
    page.get_by_label("Latent dim").fill("5000")
    page.get_by_role("button", name="Submit").click()
    message = page.get_by_label("Latent dim").evaluate("input => input.validationMessage")
    assert message == "Value must be less than or equal to 4096."
    page.get_by_label("Latent dim").fill("")
    page.get_by_label("Interpolation pair").fill("one")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("'one' does not match").first.wait_for()
    ui.save_screenshot(page, "form-refused")
    assert len(ui.server.ask("flow_runs/filter")) == before


@pytest.mark.parametrize(("size", "name"), [(WIDE, "report"), (NARROW, "report-narrow")])
def test_every_image_of_the_report_is_shown_and_the_interpolation_moves(
    ui: UI, run: dict[str, Any], size: dict[str, int], name: str
) -> None:
    report = ui.artifacts(run)["catae-report"]
    assert len(report["data"].encode()) < 500_000
    page = ui.page(f"artifacts/artifact/{report['id']}", size)
    page.get_by_role("heading", name="drawn:600 · latent size 16 · seed 7").wait_for()
    page.wait_for_timeout(1000)
    ui.save_screenshot(page, name)
    shown = page.evaluate(
        "Array.from(document.querySelectorAll('img[src^=\"data:\"]'), "
        "image => [image.alt, image.naturalWidth, image.clientWidth])"
    )
    assert [alt for alt, *_ in shown] == [
        "reconstructions", "generated", "generated-unwhitened", "interpolation", "interpolation", "curves"
    ]  # fmt: skip
    assert min(natural for _, natural, _ in shown) >= 192
    assert min(client for *_, client in shown) > 100
    animation = page.get_by_alt_text("interpolation").first
    animation.scroll_into_view_if_needed()
    seen = set()
    for _ in range(8):
        seen.add(animation.screenshot())
        page.wait_for_timeout(400)
    assert len(seen) > 2


def test_the_first_version_of_the_ui_shows_the_report(ui: UI, run: dict[str, Any]) -> None:
    page = ui.page(f"artifacts/artifact/{ui.artifacts(run)['catae-report']['id']}", root="")
    page.get_by_alt_text("curves").wait_for()
    ui.save_screenshot(page, "report-v1")
    widths = page.evaluate("Array.from(document.querySelectorAll('img[src^=\"data:\"]'), image => image.naturalWidth)")
    assert len(widths) == 6
    assert min(widths) >= 192


@pytest.mark.parametrize(("size", "name"), [(WIDE, "run"), (NARROW, "run-narrow")])
def test_the_run_page_shows_its_name_and_its_log(ui: UI, run: dict[str, Any], size: dict[str, int], name: str) -> None:
    page = ui.page(f"runs/flow-run/{run['id']}", size)
    page.get_by_text("drawn:600 · 16 · seed 7").first.wait_for()
    page.get_by_text("training on 5").wait_for()  # nine tenths of 600 images
    ui.save_screenshot(page, name)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("tab", name="Artifacts").click()
    for key in ("catae-report", "catae-epochs", "catae-progress"):
        page.get_by_text(key).first.wait_for()
    ui.save_screenshot(page, f"{name}-artifacts")


def test_the_table_has_a_row_per_epoch_and_progress_reaches_100_percent(ui: UI, run: dict[str, Any]) -> None:
    artifacts = ui.artifacts(run)
    page = ui.page(f"artifacts/artifact/{artifacts['catae-epochs']['id']}")
    page.get_by_role("columnheader", name="learning rate").wait_for()
    ui.save_screenshot(page, "epochs")
    assert page.get_by_role("row").count() == 11  # a header, and the first ten
    page = ui.page(f"artifacts/artifact/{artifacts['catae-progress']['id']}")
    page.get_by_text("Progress: 100%").wait_for()
    page.get_by_text("Ended after 12 epochs: max_epochs (12) was reached.").wait_for()
    ui.save_screenshot(page, "progress")
