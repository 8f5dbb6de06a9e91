"""Helpers for tests of HTML pages: a parser, and checks in Chromium."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from servers import LIMIT

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = (360, 390, 800, 1280)
HOSTILE = '</code><script>alert("x")</script><img src="http://evil.example/cat.png">&amp;.jpg'

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}: apt-get install chromium")


class Page(HTMLParser):
    """A parsed page: its tags with their attributes, its scripts and styles, and its text with single spaces."""

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
        """Return the attributes of each element with this tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self) -> list[str]:
        """Return the text of each table row, with single spaces."""
        rows = re.findall(r"<tr.*?</tr>", self.html.replace("<wbr>", ""), re.S)
        return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]


@contextmanager
def browser_context(**options: Any) -> Iterator[Any]:
    """Start Chromium and yield a context for pages, with options of Playwright's `new_context`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e .[dev]")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=arguments) as browser,
    ):
        context = browser.new_context(**options)
        context.set_default_timeout(LIMIT * 1000)
        yield context


@contextmanager
def browsing(**options: Any) -> Iterator[Any]:
    """Open an empty page in Chromium, with options of Playwright's `new_context`."""
    with browser_context(**options) as context:
        yield context.new_page()


def check_in_browser(path: Path, scheme: Any, images: int, one_line: str = "") -> None:
    """Check a page at several widths: all images load, no scrolling or cut text, no requests, no console messages.

    Args:
        path: the HTML file.
        scheme: the colour scheme, 'light' or 'dark'.
        images: the expected number of images.
        one_line: a CSS selector of elements whose text must fit on one line.
    """
    messages: list[str] = []
    requests: list[str] = []
    with browsing(color_scheme=scheme) as page:
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(path.as_uri())
            widths = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
            assert len(widths) == images
            assert min(widths) > 0
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{width} px"
            assert page.evaluate(CUT) == [], f"{width} px"
            if one_line:
                assert page.evaluate(WRAPPED, one_line) == [], f"{width} px"
    assert messages == []
    assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}


# Elements whose content is wider than they are. Tables may scroll.
CUT = """() => Array.from(document.querySelectorAll("main *, footer *")).filter(element =>
    element.scrollWidth > element.clientWidth && getComputedStyle(element).display !== "inline"
    && !element.closest(".scroll")).map(element => element.outerHTML.slice(0, 80))"""

WRAPPED = """selector => Array.from(document.querySelectorAll(selector)).filter(element => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return range.getClientRects().length > 1;
}).map(element => element.textContent)"""
