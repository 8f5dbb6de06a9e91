"""Regenerate the images of README.md and docs/ with the current model: `make pictures`.

    python docs/pictures.py --out docs/images

It trains on synthetic cats, so that no photograph of a stranger gets into the repository. It uses a Prefect server, a
run, a sweep and the playground, each through its command line, and takes the screenshots with Chromium. Everything but
the images is in a temporary folder. scaling.png is not among them: `benchmarks/pipeline/scaling.py --figure` draws it.
"""

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
CHROMIUM = Path("/usr/bin/chromium")
FIGURES = ("reconstructions.png", "generated.png", "generated-unwhitened.png")  # of the run, as they are
SWEEP = ("--image-size", "32", "--latent-dim", "16,32,64", "--seed", "0..1", "--max-epochs", "6")
STARTUP = 120  # seconds: a first start of the server writes its database and its pages


def main() -> int:
    """Write the images to --out; return the exit code."""
    parser = argparse.ArgumentParser(description="Regenerate the images of README.md and docs/ from synthetic cats.")
    parser.add_argument("--source", default="drawn:2000", help="synthetic cats for the run (default: drawn:2000)")
    parser.add_argument("--sweep-source", default="drawn:600", help="and for the sweep (default: drawn:600)")
    parser.add_argument("--out", type=Path, default=IMAGES, metavar="FOLDER", help="default: docs/images")
    options, flags = parser.parse_known_args()  # the other flags are for `catae train`, like --max-epochs 5
    for source in (options.source, options.sweep_source):
        if source.partition(":")[0] != "drawn":
            parser.error(f"{source}: the images show synthetic cats only; name a source like drawn:2000")
    if not CHROMIUM.exists():
        parser.error(f"no browser at {CHROMIUM}: apt-get install chromium")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="catae-pictures-") as folder, browsing() as browser:
        home = Path(folder)
        variables = environment(home)
        with serving(home, variables) as server:
            trained = catae(
                home, variables, "train", "--source", options.source, *flags, PREFECT_API_URL=f"{server}/api"
            )
            report = Path(trained)
            for name in FIGURES:
                shutil.copyfile(report.with_name(name), options.out / name)
            shoot(browser, report.as_uri(), options.out / "report.png", (1000, 1000))
            artifact = artifacts(server, "catae-report")
            shoot(
                browser,
                f"{server}/v2/artifacts/artifact/{artifact}",
                options.out / "prefect.png",
                (1000, 1100),
                "img[alt=curves]",
            )
        page = catae(home, variables, "sweep", "--source", options.sweep_source, *SWEEP)
        shoot(browser, Path(page).as_uri(), options.out / "leaderboard.png", (900, 690))
        with playing(variables, report.parent) as address:
            shoot(browser, address, options.out / "playground.png", (1100, 900), "#samples img:last-child")
    return 0


def environment(home: Path) -> dict[str, str]:
    """Return the environment without the user's settings of catae and Prefect, which would show in the images."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CATAE_", "PREFECT_"))}
    return kept | {
        "CATAE_OUTPUT_DIR": str(home / "artifacts"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_UI_API_URL": "/api",  # of the server that the page comes from
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
    }


def catae(home: Path, variables: dict[str, str], *words: str, **more: str) -> str:
    """Run a command of catae to its end; return the last line that it prints."""
    print(f"$ catae {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "catae", *words]
    # The folder keeps the caller's .env from deciding; the package is found from here.
    variables = variables | {"PYTHONPATH": str(Path(__file__).parent.parent)} | more
    done = subprocess.run(command, env=variables, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@contextmanager
def serving(home: Path, variables: dict[str, str]) -> Iterator[str]:
    """Start a Prefect server on a free port of this machine; yield its address and end it after."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (home / "server.log").open("w") as log, started(command, variables, log) as server:
        end = time.monotonic() + STARTUP
        while not answers(f"{address}/api/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"Prefect's server did not start:\n{(home / 'server.log').read_text()[-4000:]}")
            time.sleep(0.5)
        yield address


@contextmanager
def playing(variables: dict[str, str], run: Path) -> Iterator[str]:
    """Start the playground on a free port; yield its address and end it after."""
    variables = variables | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "catae", "play", str(run), "--port", "0"]
    with started(command, variables, subprocess.PIPE) as process:
        assert process.stdout
        yield process.stdout.readline().decode().strip()


@contextmanager
def started(command: list[str], variables: dict[str, str], output: IO[str] | int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in the background, and end it after."""
    process = subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def answers(address: str) -> bool:
    """Return whether a GET of the address succeeds."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def artifacts(server: str, key: str) -> str:
    """Return the id of the newest artifact with this key."""
    body = json.dumps({"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{server}/api/artifacts/filter", body, headers)) as answer:
        (found,) = json.load(answer)
    return str(found["id"])


@contextmanager
def browsing() -> Iterator[Any]:
    """Start Chromium without a window; yield the browser."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with (
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=arguments) as browser,
    ):
        yield browser


def shoot(browser: Any, address: str, path: Path, size: tuple[int, int], awaited: str = "h1") -> None:
    """Write a screenshot of the page to the PNG `path`, once the element `awaited` is there."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme="light")
    page.goto(address)
    page.locator(awaited).first.wait_for()
    page.wait_for_timeout(2000)  # images fade in, and the playground draws its first frame
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(path, optimize=True)
    page.close()
    print(path, flush=True)


if __name__ == "__main__":
    sys.exit(main())
