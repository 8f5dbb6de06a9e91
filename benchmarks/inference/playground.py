"""Measure how many images per second the page of `catae play` shows while one drags in it, in a real Chromium.

    python benchmarks/inference/playground.py --run artifacts/latest

The pointer drags across the square for 5 seconds. Only images that the page has drawn by then count.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from catae.system import hardware

SECONDS = 5.0


def frame_count(page: Page) -> int:
    """Return how many images the page has drawn."""
    return int(page.locator("canvas[data-frames]").get_attribute("data-frames") or 0)


def frame_rate(page: Page) -> float:
    """Drag the pointer and return the images per second."""
    box = page.locator("#square").bounding_box()
    assert box
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    before, start, step = frame_count(page), time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < SECONDS:
        step += 1
        page.mouse.move(box["x"] + 5 + 7 * step % (box["width"] - 10), box["y"] + 5 + 3 * step % (box["height"] - 10))
    frames = frame_count(page) - before
    page.mouse.up()
    return frames / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run, as for catae play")
    parser.add_argument("--repeats", type=int, default=5, help="number of drags (default: %(default)s)")
    parser.add_argument(
        "--chromium", type=Path, default=Path("/usr/bin/chromium"), help="the browser (default: %(default)s)"
    )
    options = parser.parse_args()
    command = [sys.executable, "-m", "catae", "play", options.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=options.chromium, args=flags)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(address[0])
        page.locator("#samples img").nth(11).wait_for()
        rates = [frame_rate(page) for _ in range(options.repeats)]
        browser.close()
        server.terminate()
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, shared by Chromium and the server")
    print(f"{statistics.median(rates):.0f} images/s ({min(rates):.0f}–{max(rates):.0f}, {len(rates)} repeats)")


if __name__ == "__main__":
    main()
