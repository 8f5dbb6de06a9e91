import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from catae.report import html
from catae.system.text import count, duration, percent, printable


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.7257, "0.73 s"),
        (2.26, "2.3 s"),
        (42.4, "42 s"),
        (59.7, "1 min 0 s"),
        (750.3, "12 min 30 s"),
        (3900, "1 h 5 min"),
    ],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_one_picture_is_no_plural() -> None:
    assert [count(n, "picture") for n in (0, 1, 1690)] == ["0 pictures", "1 picture", "1,690 pictures"]


@pytest.mark.parametrize(
    ("part", "words"),
    [(0, "0%"), (0.001, "less than 1%"), (0.724, "72%"), (0.998, "more than 99%"), (1, "100%")],
)
def test_a_share_is_0_only_if_there_is_none_and_100_only_if_there_is_no_other(part: float, words: str) -> None:
    assert percent(part) == words


def test_what_would_steer_a_terminal_is_shown_as_an_escape() -> None:
    assert printable("a\x1b[31m\n\x9b\u202egnp.jpg\udc80") == r"a\x1b[31m\n\x9b\u202egnp.jpg\udc80"
    assert printable("Kätzchen 猫 [bold].jpg") == "Kätzchen 猫 [bold].jpg"


def test_the_first_of_many_and_how_many_more_there_are() -> None:
    assert html.first([1, 2, 3], 2) == ([1, 2], 1)
    assert html.first({"RGB": 3}, 2) == ([("RGB", 3)], 0)


def test_a_picture_that_is_too_tall_for_webp_is_in_the_page_all_the_same(tmp_path: Path) -> None:
    Image.new("RGB", (8, 17_000), "red").save(tmp_path / "walk.png")
    picture = html.embed(tmp_path / "walk.png")
    with Image.open(io.BytesIO(base64.b64decode(picture.address.partition(",")[2]))) as shown:
        assert shown.size == (picture.width, picture.height) == (8, 17_000)
