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
def test_durations_have_readable_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_count_forms_the_plural() -> None:
    assert [count(n, "image") for n in (0, 1, 1690)] == ["0 images", "1 image", "1,690 images"]


@pytest.mark.parametrize(
    ("part", "words"),
    [(0, "0%"), (0.001, "less than 1%"), (0.724, "72%"), (0.998, "more than 99%"), (1, "100%")],
)
def test_percent_is_0_or_100_only_if_exact(part: float, words: str) -> None:
    assert percent(part) == words


def test_printable_escapes_control_characters() -> None:
    assert printable("a\x1b[31m\n\x9b\u202egnp.jpg\udc80") == r"a\x1b[31m\n\x9b\u202egnp.jpg\udc80"
    assert printable("Kätzchen 猫 [bold].jpg") == "Kätzchen 猫 [bold].jpg"


def test_first_returns_the_first_items_and_the_number_of_others() -> None:
    assert html.first([1, 2, 3], 2) == ([1, 2], 1)
    assert html.first({"RGB": 3}, 2) == ([("RGB", 3)], 0)


def test_an_image_too_tall_for_webp_is_embedded_as_png(tmp_path: Path) -> None:
    Image.new("RGB", (8, 17_000), "red").save(tmp_path / "tall.png")
    image = html.embed_file(tmp_path / "tall.png")
    with Image.open(io.BytesIO(base64.b64decode(image.address.partition(",")[2]))) as shown:
        assert shown.size == (image.width, image.height) == (8, 17_000)
