"""What the report on data promises, on small real sets and on reports with the names of an enemy."""

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

STEERING = "[bold]\x1b[31mred\x1b[0m\x07\x9b2J\r\n\u202egnp.[/bold] :cat:.jpg"
SHOWN = r"[bold]\x1b[31mred\x1b[0m\x07\x9b2J\r\n\u202egnp.[/bold] :cat:.jpg"


def noise(count: int, size: int = 16) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def make_set(folder: Path, pixels: Pixels, names: list[str] | None = None) -> ImageStore:
    """A set of these pictures, each in a group of its own."""
    folder.mkdir(exist_ok=True)
    names = names or [f"{number:03}.jpg" for number in range(len(pixels))]
    pixels.tofile(folder / "pixels.u8")
    (folder / "digests.u8").write_bytes(b"".join(hashlib.sha256(picture.tobytes()).digest() for picture in pixels))
    (folder / "names.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    np.arange(len(pixels)).tofile(folder / "groups.i64")
    (folder / "index.json").write_text(json.dumps({"size": pixels.shape[1], "count": len(pixels), "digest": "d"}))
    return ImageStore(folder)


def make_report(**facts: Any) -> DataReport:
    """A report on 200 pictures without copies, with other facts in its place."""
    usual = {"files": 200, "pictures": 200, "distinct": 200, "original_sizes": {"16x16": 200}, "modes": {"RGB": 200}}
    return DataReport(**{"source": "cats.zip", "image_size": 16, **usual, **facts})


def printed(report: DataReport, width: int = 80) -> str:
    """What a terminal gets."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)  # without styles
    console.print(data_report.text(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def written(folder: Path, report: DataReport, pixels: Pixels, names: list[str] | None = None) -> Page:
    """The page, read."""
    data_report.write_html(make_set(folder / "set", pixels, names), report, folder / "page.html")
    return Page((folder / "page.html").read_text())


# In a terminal


def test_text_says_what_was_found_in_80_columns() -> None:
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
        "cats.zip: 30% of the pictures are copies of others. 3 files can't be read.",
        "Files 210",
        "Pictures 200 of 16x16, 150 distinct",
        "Identical copies 50",
        "Mirror images 2",
        "Near copies 8",
        "Original sizes 16x16 (200)",
        "Modes RGB (200)",
        "Among them 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more",
        "bad-01.jpg the file is empty",
        "odd.jpg it is a PNG, though its name ends in .jpg",
        "3 a.jpg, b.jpg, c.jpg",
        "and 56 more; the largest 2 of all are in the output of catae inspect --json",
    ):
        assert line in lines
    assert (
        "A plain random split would have left 72% of the test pictures with a copy in train; catae, which"
        in " ".join(lines)
    )


def test_text_without_copies_rejects_and_notes_has_no_empty_tables() -> None:
    text = printed(make_report())
    assert "cats.zip: No picture is a copy of another." in text
    for heading in ("Notes", "Rejects:", "largest", "plain random split"):
        assert heading not in text


@pytest.mark.parametrize(("kind", "key"), [("rejects", "reason"), ("notes", "note")])
def test_text_names_the_first_20_and_counts_the_rest(kind: str, key: str) -> None:
    text = printed(make_report(**{kind: [{"name": f"bad-{n:02}.jpg", key: "so it is"} for n in range(23)]}))
    assert re.findall(r"bad-\d\d", text) == [f"bad-{n:02}" for n in range(20)]
    assert "and 3 more, in the output of catae inspect --json" in text


def test_text_shows_names_literally_and_lets_none_steer_the_terminal() -> None:
    text = printed(
        make_report(
            source=STEERING,
            groups=[[STEERING, STEERING]],
            group_count=1,
            rejects=[{"name": STEERING, "reason": STEERING}],
            notes=[{"name": STEERING, "note": STEERING}],
            passed_over=[STEERING],
        ),
        width=400,
    )
    assert text.count(SHOWN) == 8  # source, one passed over, a reject and its reason, a note and its name, two copies
    assert all(character.isprintable() or character == "\n" for character in text)


def test_text_folds_a_long_name_and_loses_no_part_of_it() -> None:
    name = "".join(f"{n:03}" for n in range(100))
    lines = printed(make_report(rejects=[{"name": name, "reason": "the file is empty"}])).splitlines()
    assert max(map(len, lines)) <= 80
    assert name in "".join(re.sub(r"(the|file|is|empty|\s)", "", line) for line in lines)


# Copies as a figure


def test_draws_the_largest_groups_a_row_each(tmp_path: Path) -> None:
    pixels = noise(200, 64)
    groups = [[f"{n + 10 * g:03}.jpg" for n in range(10)] for g in range(14)]
    assert data_report.draw_copies(make_set(tmp_path, pixels), make_report(groups=groups), tmp_path / "duplicates.png")
    with Image.open(tmp_path / "duplicates.png") as figure:
        canvas = np.asarray(figure.convert("RGB"))
        assert figure.width == 8 * 68 - 4 + 2 * 16
    for group in range(12):
        for member in range(8):
            bottom, left = canvas.shape[0] - 16 - (11 - group) * (64 + 16), 16 + member * 68
            assert np.array_equal(canvas[bottom - 64 : bottom, left : left + 64], pixels[10 * group + member])


def test_draws_nothing_where_there_are_no_copies(tmp_path: Path) -> None:
    (tmp_path / "duplicates.png").write_bytes(b"of an earlier run")
    assert not data_report.draw_copies(make_set(tmp_path, noise(3)), make_report(), tmp_path / "duplicates.png")
    assert not (tmp_path / "duplicates.png").exists()


# As a page


def test_page_shows_96_pictures_spread_evenly_and_says_so(tmp_path: Path) -> None:
    page = written(tmp_path, make_report(), noise(200))
    names = [str(image["alt"]) for image in page.all("img")]
    assert len(set(names)) == 96
    assert names[0] == "000.jpg"
    assert names[-1] == "199.jpg"
    assert {int(b[:3]) - int(a[:3]) for a, b in pairwise(names)} == {2, 3}
    assert "96 of 200 pictures, spread evenly over the set in the order in which it was read" in page.text
    assert "All 3 pictures." in written(tmp_path, make_report(pictures=3), noise(3)).text


def test_page_has_the_counts_the_copies_the_notes_and_the_rejects(tmp_path: Path) -> None:
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
    assert "29% of the pictures are copies of others. 23 files can't be read." in page.text
    assert "would have left 72% of the test pictures with a copy in train" in page.text
    assert "Identical copies50 pictures" in page.text
    assert "2 pictures: 000.jpg, 001.jpg" in page.text
    assert "odd.jpg it is a PNG" in page.rows()
    assert len([row for row in page.rows() if "bad-" in row]) == 20
    assert "and 3 more, in the output of catae inspect --json." in page.text
    assert page.all("img")[-1]["alt"] == "Rows of pictures, each a group of copies."


def test_page_asks_nothing_of_the_network_and_can_be_followed_by_a_screen_reader(tmp_path: Path) -> None:
    page = written(tmp_path, make_report(groups=[["000.jpg", "001.jpg"]], group_count=1), noise(200))
    assert all(str(image["src"]).startswith("data:image/webp") and image["alt"] for image in page.all("img"))
    assert all(re.fullmatch("#[a-z]+", str(a["href"])) for a in page.all("a"))
    targets = {str(a["href"])[1:] for a in page.all("a")} | {button["popovertarget"] for button in page.all("button")}
    assert targets == {a["id"] for _, a in page.tags if "id" in a}
    assert not page.all("script")
    assert not re.search(r"url\(|@import", page.style)
    assert "default-src 'none'" in page.html


def test_page_shows_hostile_names_as_text(tmp_path: Path) -> None:
    names = [HOSTILE, STEERING]
    report = make_report(
        source=HOSTILE,
        pictures=2,
        groups=[names],
        group_count=1,
        rejects=[{"name": HOSTILE, "reason": STEERING}],
        passed_over=[STEERING],
    )
    page = written(tmp_path, report, noise(2), names)
    assert page.text.count(HOSTILE) == 3  # the source, a copy, a reject
    assert page.text.count(SHOWN) == 3  # a copy, a reason, one passed over
    assert [image["alt"] for image in page.all("img")][:2] == [HOSTILE, SHOWN]
    assert len(page.all("img")) == 3
    assert not page.all("script")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page.html)


def test_page_stays_under_3_mb_with_large_pictures_that_nothing_compresses(tmp_path: Path) -> None:
    names = [f"{number:03}.jpg" for number in range(100)]
    pixels = noise(100, 64).repeat(4, 1).repeat(4, 2)  # noise still, when it is shrunk to 64
    report = make_report(pictures=100, groups=[names[8 * g : 8 * g + 8] for g in range(12)], group_count=12)
    assert "and shown smaller" in written(tmp_path, report, pixels).text
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_every_picture_with_nothing_sideways_and_no_request(tmp_path: Path, scheme: str) -> None:
    report = make_report(
        source=f"/data/{'cats' * 60}.zip",
        groups=[["000.jpg", "001.jpg", "002.jpg"], ["003.jpg", "004.jpg"]],
        group_count=2,
        rejects=[{"name": f"{HOSTILE}{'long' * 40}", "reason": "no picture " * 20}],
        notes=[{"name": STEERING, "note": "it is a PNG, though its name ends in .jpg"}],
    )
    written(tmp_path, report, noise(200))
    check_in_browser(tmp_path / "page.html", scheme, 97)
