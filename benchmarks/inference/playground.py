"""How many pictures a second the page of `catae play` shows while one drags in it, in a real Chromium.

    python benchmarks/inference/playground.py --run artifacts/latest

The pointer goes to and fro in the square; what counts is what the page has drawn when it stops.
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


def frames(page: Page) -> int:
    """How many pictures the page has drawn."""
    return int(page.locator("#picture").get_attribute("data-frames") or 0)


def rate(page: Page) -> float:
    """Pictures a second while the pointer is dragged."""
    box = page.locator("#square").bounding_box()
    assert box
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    before, start, step = frames(page), time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < SECONDS:
        step += 1
        page.mouse.move(box["x"] + 5 + 7 * step % (box["width"] - 10), box["y"] + 5 + 3 * step % (box["height"] - 10))
    drawn = frames(page) - before
    page.mouse.up()
    return drawn / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="as for catae play")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    options = parser.parse_args()
    command = [sys.executable, "-m", "catae", "play", options.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served, sync_playwright() as playwright:
        assert served.stdout
        address = re.search(r"http://\S+", served.stdout.readline())
        assert address
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=options.chromium, args=flags)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(address[0])
        page.locator("#samples img").nth(11).wait_for()
        rates = [rate(page) for _ in range(options.repeats)]
        browser.close()
        served.terminate()
    print(f"{hardware.describe()['cpu']}, {hardware.usable_cpus()} CPUs, Chromium beside the server on them")
    print(f"{statistics.median(rates):.0f} pictures a second ({min(rates):.0f}–{max(rates):.0f}, {len(rates)} repeats)")


if __name__ == "__main__":
    main()
