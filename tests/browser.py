"""What the tests of pages share: a page as its reader takes it, and what a real browser says of it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = (360, 800, 1280)
HOSTILE = '</code><script>alert("x")</script><img src="http://evil.example/cat.png">&amp;.jpg'

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"there is no browser at {CHROMIUM}: apt-get install chromium"
)


class Page(HTMLParser):
    """A page as a browser takes it: its tags with their attributes, and its text with single spaces."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.pieces, self.style = html, [], [], ""
        self.script = "".join(re.findall("<script[^>]*>(.*?)</script>", html, re.S))
        self.feed(html)
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "style":
            self.style += data
        elif not (self.tags and self.tags[-1][0] == "script"):
            self.pieces.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self) -> list[str]:
        rows = re.findall(r"<tr.*?</tr>", self.html.replace("<wbr>", ""), re.S)
        return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]


@contextmanager
def browsing(**context: Any) -> Iterator[Any]:
    """An empty page of a browser, of the kind that Playwright is asked for."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e .[dev]")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=arguments) as browser,
    ):
        yield browser.new_page(**context)


def check_in_browser(path: Path, scheme: Any, pictures: int, whole: str = "") -> None:
    """Opens a page at several widths: all pictures are shown, nothing is sideways, nothing is asked for or wrong.

    Args:
        path: the page.
        scheme: 'light' or 'dark'.
        pictures: how many there are on it.
        whole: a selector of elements whose text must stand in one line.
    """
    complaints: list[str] = []
    requests: list[str] = []
    with browsing(color_scheme=scheme) as page:
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(path.as_uri())
            widths = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
            assert len(widths) == pictures
            assert min(widths) > 0
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{width} px"
            if whole:
                assert page.evaluate(IN_SEVERAL_LINES, whole) == [], f"{width} px"
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}


IN_SEVERAL_LINES = """selector => Array.from(document.querySelectorAll(selector)).filter(element => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return range.getClientRects().length > 1;
}).map(element => element.textContent)"""
