"""The data report of small real sets, and of reports with hostile names."""

import hashlib
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import HOSTILE, Page, check_in_browser, needs_chromium
from PIL import Image
from rich.console import Console

from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.ingest import DataReport
from catae.report import data_report

CONTROL = "[bold]\x1b[31mred\x1b[0m\x07\x9b2J\r\n\u202egnp.[/bold] :cat:.jpg"
SHOWN = r"[bold]\x1b[31mred\x1b[0m\x07\x9b2J\r\n\u202egnp.[/bold] :cat:.jpg"


def noise(count: int, size: int = 16) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def make_set(folder: Path, pixels: Pixels, names: list[str] | None = None) -> ImageStore:
    """Write a set of these images, each in a group of its own."""
    folder.mkdir(exist_ok=True)
    names = names or [f"{number:03}.jpg" for number in range(len(pixels))]
    pixels.tofile(folder / "pixels.u8")
    (folder / "digests.u8").write_bytes(b"".join(hashlib.sha256(image.tobytes()).digest() for image in pixels))
    (folder / "names.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    np.arange(len(pixels)).tofile(folder / "groups.i64")
    (folder / "index.json").write_text(json.dumps({"size": pixels.shape[1], "count": len(pixels), "digest": "d"}))
    return ImageStore(folder)


def make_report(**facts: Any) -> DataReport:
    """Return a report of 200 images without duplicates, with some facts replaced."""
    usual = {"files": 200, "pictures": 200, "distinct": 200, "original_sizes": {"16x16": 200}, "modes": {"RGB": 200}}
    return DataReport(**{"source": "cats.zip", "image_size": 16, **usual, **facts})


def printed(report: DataReport, width: int = 80) -> str:
    """Return what a terminal shows."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)  # no styles
    console.print(data_report.data_report_text(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def written(folder: Path, report: DataReport, pixels: Pixels, names: list[str] | None = None) -> Page:
    """Write the page and parse it."""
    data_report.write_data_page(make_set(folder / "set", pixels, names), report, folder / "page.html")
    return Page((folder / "page.html").read_text())


# In a terminal


def test_text_has_counts_and_tables_in_80_columns() -> None:
    text = printed(
        make_report(
            files=210,
            distinct=150,
            mirrored=2,
            near=8,
            plain_split_leak=0.724,
            groups=[["a.jpg", "b.jpg", "c.jpg"], ["d.jpg", "e.jpg"]],
            group_count=58,
            passed_over=[f"{n}.txt" for n in range(7)],
            rejects=[{"name": f"bad-{n:02}.jpg", "reason": "the file is empty"} for n in range(3)],
            notes=[{"name": "odd.jpg", "note": "it is a PNG, though its name ends in .jpg"}],
        )
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 80
    for line in (
        "cats.zip: 30% of the images are duplicates of others. 3 files cannot be decoded.",
        "Files 210",
        "Images 200 of 16x16, 150 distinct",
        "Duplicates 50 identical",
        "Flipped 2",
        "Near-duplicates 8",
        "Original sizes 16x16 (200)",
        "Modes RGB (200)",
        "Among them 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more",
        "bad-01.jpg the file is empty",
        "odd.jpg it is a PNG, though its name ends in .jpg",
        "3 a.jpg, b.jpg, c.jpg",
        "and 56 more groups; the largest 2 of 58 are listed by catae inspect --json",
    ):
        assert line in lines
    leak = "A random split by file would leave 72% of test images with a duplicate in train; catae keeps"
    assert leak in " ".join(lines)


def test_text_and_page_name_images_in_unsupported_formats(tmp_path: Path) -> None:
    heic = [{"name": f"phone-{n:02}.heic", "reason": "HEIC: install it"} for n in range(23)]
    report = make_report(files=223, unsupported=heic)
    lines = [" ".join(line.split()) for line in printed(report).splitlines()]
    assert "cats.zip: There are no duplicates. 23 images in unsupported formats." in lines
    assert "Unsupported 23 images in other formats" in lines
    assert "phone-19.heic HEIC: install it" in lines
    assert "and 3 more, listed by catae inspect --json" in lines
    page = written(tmp_path, report, noise(200))
    assert "23 images in a format that is not read" in page.text
    assert len([row for row in page.rows() if "phone-" in row]) == 20


def test_report_without_images_has_a_page(tmp_path: Path) -> None:
    report = make_report(files=1, pictures=0, distinct=0, rejects=[{"name": "a.png", "reason": "the file is empty"}])
    data_report.write_data_page(None, report, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert "There are no images to train on. 1 file cannot be decoded." in page.text
    assert "a.png the file is empty" in page.rows()
    assert page.all("img") == []


def test_text_without_duplicates_rejects_and_notes_has_no_empty_tables() -> None:
    text = printed(make_report())
    assert "cats.zip: There are no duplicates." in text
    for heading in ("Notes", "Rejects:", "Largest", "random split"):
        assert heading not in text


@pytest.mark.parametrize(("kind", "key"), [("rejects", "reason"), ("notes", "note")])
def test_text_names_the_first_20_and_counts_the_rest(kind: str, key: str) -> None:
    text = printed(make_report(**{kind: [{"name": f"bad-{n:02}.jpg", key: "so it is"} for n in range(23)]}))
    assert re.findall(r"bad-\d\d", text) == [f"bad-{n:02}" for n in range(20)]
    assert "and 3 more, listed by catae inspect --json" in text


def test_text_escapes_hostile_names() -> None:
    text = printed(
        make_report(
            source=CONTROL,
            groups=[[CONTROL, CONTROL]],
            group_count=1,
            rejects=[{"name": CONTROL, "reason": CONTROL}],
            notes=[{"name": CONTROL, "note": CONTROL}],
            passed_over=[CONTROL],
        ),
        width=400,
    )
    assert text.count(SHOWN) == 8  # source, skipped file, reject and reason, note and name, two duplicates
    assert all(character.isprintable() or character == "\n" for character in text)


def test_text_wraps_a_long_name_completely() -> None:
    name = "".join(f"{n:03}" for n in range(100))
    lines = printed(make_report(rejects=[{"name": name, "reason": "the file is empty"}])).splitlines()
    assert max(map(len, lines)) <= 80
    assert name in "".join(re.sub(r"(the|file|is|empty|\s)", "", line) for line in lines)


# As a figure


def test_the_figure_has_a_row_for_each_of_the_largest_groups(tmp_path: Path) -> None:
    pixels = noise(200, 64)
    groups = [[f"{n + 10 * g:03}.jpg" for n in range(10)] for g in range(14)]
    assert data_report.draw_duplicates(
        make_set(tmp_path, pixels), make_report(groups=groups), tmp_path / "duplicates.png"
    )
    with Image.open(tmp_path / "duplicates.png") as figure:
        canvas = np.asarray(figure.convert("RGB"))
        assert figure.width == 8 * 68 - 4 + 2 * 16
    for group in range(12):
        for member in range(8):
            bottom, left = canvas.shape[0] - 16 - (11 - group) * (64 + 16), 16 + member * 68
            assert np.array_equal(canvas[bottom - 64 : bottom, left : left + 64], pixels[10 * group + member])


def test_without_duplicates_there_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "duplicates.png").write_bytes(b"of an earlier run")
    assert not data_report.draw_duplicates(make_set(tmp_path, noise(3)), make_report(), tmp_path / "duplicates.png")
    assert not (tmp_path / "duplicates.png").exists()


# As a page


def test_page_shows_96_evenly_spaced_images(tmp_path: Path) -> None:
    page = written(tmp_path, make_report(), noise(200))
    names = [str(image["alt"]) for image in page.all("img")]
    assert len(set(names)) == 96
    assert names[0] == "000.jpg"
    assert names[-1] == "199.jpg"
    assert {int(b[:3]) - int(a[:3]) for a, b in pairwise(names)} == {2, 3}
    assert "96 of 200 images, evenly spaced in the order in which they were read" in page.text
    assert "All 3 images." in written(tmp_path, make_report(pictures=3), noise(3)).text


def test_page_has_counts_duplicates_notes_and_rejects(tmp_path: Path) -> None:
    report = make_report(
        distinct=150,
        near=8,
        plain_split_leak=0.724,
        groups=[["000.jpg", "001.jpg"]],
        group_count=1,
        rejects=[{"name": f"bad-{n:02}.jpg", "reason": "the file is empty"} for n in range(23)],
        notes=[{"name": "odd.jpg", "note": "it is a PNG"}],
    )
    page = written(tmp_path, report, noise(200))
    assert "29% of the images are duplicates of others. 23 files cannot be decoded." in page.text
    assert "would leave 72% of test images with a duplicate in train" in page.text
    assert "Duplicates50 identical" in page.text
    assert "2 000.jpg, 001.jpg" in page.rows()
    assert "odd.jpg it is a PNG" in page.rows()
    assert len([row for row in page.rows() if "bad-" in row]) == 20
    assert "and 3 more, listed by catae inspect --json." in page.text
    assert page.all("img")[-1]["alt"] == "Rows of images, each a group of duplicates."


def test_page_is_self_contained_and_accessible(tmp_path: Path) -> None:
    page = written(tmp_path, make_report(groups=[["000.jpg", "001.jpg"]], group_count=1), noise(200))
    assert all(str(image["src"]).startswith("data:image/webp") and image["alt"] for image in page.all("img"))
    assert all(re.fullmatch("#[a-z]+", str(a["href"])) for a in page.all("a"))
    targets = {str(a["href"])[1:] for a in page.all("a")} | {button["popovertarget"] for button in page.all("button")}
    assert targets == {a["id"] for _, a in page.tags if "id" in a}
    assert not page.all("script")
    assert not re.search(r"url\(|@import", page.style)
    assert "default-src 'none'" in page.html


def test_page_escapes_hostile_names(tmp_path: Path) -> None:
    names = [HOSTILE, CONTROL]
    report = make_report(
        source=HOSTILE,
        pictures=2,
        groups=[names],
        group_count=1,
        rejects=[{"name": HOSTILE, "reason": CONTROL}],
        passed_over=[CONTROL],
    )
    page = written(tmp_path, report, noise(2), names)
    assert page.text.count(HOSTILE) == 3  # the source, a duplicate, a reject
    assert page.text.count(SHOWN) == 3  # a duplicate, a reason, one skipped
    assert [image["alt"] for image in page.all("img")][:2] == [HOSTILE, SHOWN]
    assert len(page.all("img")) == 3
    assert not page.all("script")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page.html)


def test_page_stays_under_3_mb_with_incompressible_images(tmp_path: Path) -> None:
    names = [f"{number:03}.jpg" for number in range(100)]
    pixels = noise(100, 64).repeat(4, 1).repeat(4, 2)  # still noise when downscaled to 64
    report = make_report(pictures=100, groups=[names[8 * g : 8 * g + 8] for g in range(12)], group_count=12)
    assert "and shown smaller" in written(tmp_path, report, pixels).text
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_every_image_without_scrolling_or_requests(tmp_path: Path, scheme: str) -> None:
    report = make_report(
        source=f"/data/{'cats' * 60}.zip",
        groups=[["000.jpg", "001.jpg", "002.jpg"], ["003.jpg", "004.jpg"]],
        group_count=2,
        rejects=[{"name": f"{HOSTILE}{'long' * 40}", "reason": "no picture " * 20}],
        notes=[{"name": CONTROL, "note": "it is a PNG, though its name ends in .jpg"}],
    )
    written(tmp_path, report, noise(200))
    check_in_browser(tmp_path / "page.html", scheme, 97)
