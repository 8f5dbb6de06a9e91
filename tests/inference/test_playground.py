import io
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from browser import browsing, needs_chromium
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from catae import settings
from catae.inference import playground
from catae.inference.playground import Session
from catae.latent import space
from catae.run import Run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it prefers httpx2; Prefect brings httpx
    from starlette.testclient import TestClient

LOCAL, FRAMES = "http://127.0.0.1:8000", "ws://127.0.0.1:8000/frames"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("play")
    given = {"source": "drawn:120", "image_size": 32, "latent_dim": 16, "width": 8, "max_epochs": 2}
    return jobs.train(settings.load({**given, "output_dir": out}))


@pytest.fixture(scope="module")
def session(trained: Run) -> Session:
    return playground.open_session(trained)


@pytest.fixture
def client(session: Session) -> TestClient:
    return TestClient(playground.application(session), base_url=LOCAL)


def png(size: tuple[int, int] = (90, 60)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "tan").save(file, "PNG")
    return file.getvalue()


def test_a_latent_is_answered_with_its_decoded_image(client: TestClient, session: Session) -> None:
    latent = client.get("/samples", params={"seed": 3}).json()[5]["latent"]
    with client.websocket_connect(FRAMES) as frames:
        frames.send_bytes(np.array(latent, "<f4").tobytes())
        shown = np.frombuffer(frames.receive_bytes(), np.uint8).reshape(32, 32, 4)
    (expected,) = space.decode(session.model, torch.tensor(latent).view(1, 16, 1, 1))
    assert (shown[..., :3] == expected).all()
    assert (shown[..., 3] == 255).all()


@pytest.mark.parametrize(
    "data", [b"", bytes(60), bytes(68), np.full(16, np.nan, "<f4").tobytes(), np.full(16, 1e30, "<f4").tobytes()]
)
def test_an_invalid_latent_closes_the_connection(client: TestClient, data: bytes) -> None:
    with client.websocket_connect(FRAMES) as frames:
        frames.send_bytes(data)
        with pytest.raises(WebSocketDisconnect) as ended:
            frames.receive_bytes()
    assert ended.value.code == 1007
    with client.websocket_connect(FRAMES) as frames:
        frames.send_text("a cat")
        with pytest.raises(WebSocketDisconnect):
            frames.receive_bytes()


def test_an_upload_is_encoded_or_refused_with_a_reason(client: TestClient) -> None:
    (own,) = client.post("/encode", content=png()).json()
    assert len(own["latent"]) == 16
    broken = client.post("/encode", content=b"no picture")
    assert (broken.status_code, broken.text) == (415, "not an image in a known format\n")
    assert client.post("/encode", content=bytes(10_000_001)).status_code == 413
    assert client.post("/encode", content=png((9000, 8000))).status_code == 415


@pytest.mark.parametrize(
    "query", ["seed=-1", "seed=x", "seed=4294967296", "seed=²", "prior=none", "seed=" + "9" * 5000]
)
def test_an_invalid_seed_or_prior_is_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/samples?{query}").status_code == 400


def test_responses_depend_on_the_seed_only(client: TestClient) -> None:
    for address in ("/samples?seed=", "/images?seed="):
        assert client.get(f"{address}1").json() == client.get(f"{address}1").json() != client.get(f"{address}2").json()


def test_other_sites_are_refused_by_host_and_by_origin(client: TestClient) -> None:
    for headers in ({"host": "evil.example:8000"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert client.get("/model", headers=headers).status_code == 403
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(FRAMES, headers=headers):
            pass
    assert client.get("/model", headers={"origin": LOCAL}).status_code == 200
    assert client.get("/model", headers={"host": "[::1]:8000"}).status_code == 200


def test_the_policy_allows_only_the_pages_own_script(client: TestClient) -> None:
    response = client.get("/")
    assert "script-src 'self'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert not re.search(r" style=| on\w+=|<style|https?://", response.text)


def test_directions_are_orthonormal_and_the_strongest_comes_first(session: Session) -> None:
    directions = playground.strongest_directions(session.model, 16)
    assert torch.allclose(directions @ directions.T, torch.eye(16), atol=1e-4)
    with torch.inference_mode():
        least, most = (
            (session.model.decoder(direction) - session.model.decoder(-direction)).abs().mean()
            for direction in (directions[-1:, :, None, None], directions[:1, :, None, None])
        )
    assert most > 2 * least


def test_without_the_runs_images_the_corners_are_samples(session: Session) -> None:
    bare = Session(session.name, session.model, session.priors, session.directions, None, [])
    corners = TestClient(playground.application(bare), base_url=LOCAL).get("/images").json()
    assert [corner["name"] for corner in corners] == ["a sample"] * 4


@contextmanager
def playing(run: Run) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `catae play` on a free port; yield the process and its address."""
    words = [sys.executable, "-m", "catae", "play", str(run.path), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_busy_port_is_one_line_and_exit_code_2(trained: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["play", str(trained.path), "--port", str(taken.getsockname()[1])]
        ended = subprocess.run([sys.executable, "-m", "catae", *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert re.fullmatch(r"catae: .*cannot listen on .*--port 0 takes a free port\n", ended.stderr)


@needs_chromium
def test_in_a_browser_every_control_changes_the_image(trained: Run) -> None:
    problems: list[str] = []
    with playing(trained) as (process, address), browsing(viewport={"width": 1440, "height": 1000}) as page:
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.locator("#samples img").nth(11).wait_for()
        seen = [settled(page)]

        def changed() -> None:
            page.wait_for_function("before => document.querySelector('#image').toDataURL() != before", arg=seen[-1])
            seen.append(settled(page))

        box = page.locator("#square").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 2, box["y"] + 2, steps=10)
        page.mouse.up()
        changed()
        page.get_by_label("Direction 1").press("End")
        changed()
        page.get_by_role("button", name="Reset").click()
        changed()
        assert seen[-1] == seen[-3]
        page.get_by_label("Down").press("End")
        changed()
        before = page.locator("#samples img").first.get_attribute("src")
        page.get_by_role("button", name="Resample").click()
        page.wait_for_function("src => document.querySelector('#samples img').src != src", arg=before)
        page.locator("#samples button").nth(4).click()
        changed()
        page.get_by_label("Your image").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": png()})
        page.get_by_alt_text("top left: your image").wait_for()
        changed()
        with page.expect_download() as download:
            page.get_by_text("Save as PNG").click()
        with Image.open(download.value.path()) as saved:
            assert saved.size == (32, 32)
        assert problems == []
        page.get_by_label("Your image").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
        page.get_by_text("not an image in a known format").wait_for()
        process.send_signal(signal.SIGINT)
        page.get_by_text("The server has stopped").wait_for()
        assert process.wait(300) == 130
        assert process.stderr
        assert process.stderr.read() == "catae: interrupted\n"


def settled(page: Any) -> str:
    """Return the image, once no further frame arrives."""
    frames = None
    while frames != (frames := page.locator("#image").get_attribute("data-frames")) or frames is None:
        page.wait_for_timeout(200)
    shown: str = page.evaluate("document.querySelector('#image').toDataURL()")
    return shown


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_never_scrolls_sideways(trained: Run, scheme: Any) -> None:
    with playing(trained) as (_, address), browsing(color_scheme=scheme) as page:
        for width in (360, 390, 820, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(address)
            page.locator("#samples img").nth(11).wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{width} px"
