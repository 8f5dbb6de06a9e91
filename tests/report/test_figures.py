import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catae.report import figures

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8)


def contains(canvas: Image.Image, picture: np.ndarray, scale: int) -> bool:
    """Whether a picture stands in the canvas, pixel for pixel, each `scale` times as large."""
    whole = np.asarray(canvas.convert("RGB"))
    wanted = picture.repeat(scale, 0).repeat(scale, 1)
    height, width = wanted.shape[:2]
    rows, columns = np.nonzero((whole == wanted[0, 0]).all(-1))
    return any(
        np.array_equal(whole[row : row + height, column : column + width], wanted)
        for row, column in zip(rows, columns, strict=True)
    )


def test_a_grid_shows_every_picture_as_it_is(tmp_path: Path) -> None:
    figures.grid(PIXELS, tmp_path / "grid.png", "eleven pictures", columns=4)
    canvas = Image.open(io.BytesIO((tmp_path / "grid.png").read_bytes()))
    assert all(contains(canvas, picture, 2) for picture in PIXELS)


@pytest.mark.parametrize(("count", "lines"), [(11, 1), (8, 2), (3, 1)])
def test_where_the_pictures_of_a_grid_are_is_known(tmp_path: Path, count: int, lines: int) -> None:
    figures.grid(PIXELS[:count], tmp_path / "grid.png", "\n".join(["pictures"] * lines))
    canvas = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    at = figures.places(count, 16, len(canvas))
    for number, picture in enumerate(PIXELS[:count]):
        left, top = at.left + number % at.columns * at.pitch, at.top + number // at.columns * at.pitch
        shown = canvas[top : top + at.side, left : left + at.side]
        assert np.array_equal(shown, picture.repeat(2, 0).repeat(2, 1))


def test_pairs_show_every_picture_over_its_counterpart(tmp_path: Path) -> None:
    figures.pairs(PIXELS, 255 - PIXELS, tmp_path / "pairs.png", "eleven pictures", columns=4)
    canvas = Image.open(io.BytesIO((tmp_path / "pairs.png").read_bytes()))
    assert all(contains(canvas, np.vstack([picture]), 2) for picture in (*PIXELS, *(255 - PIXELS)))
    assert contains(canvas, np.vstack([PIXELS[0], np.full((2, 16, 3), 255, np.uint8), 255 - PIXELS[0]]), 2)


def test_rows_show_every_picture_in_its_row_as_it_is(tmp_path: Path) -> None:
    figures.rows([PIXELS[:3], PIXELS[3:4], PIXELS[4:]], tmp_path / "rows.png", "three groups", scale=3)
    canvas = Image.open(io.BytesIO((tmp_path / "rows.png").read_bytes()))
    assert all(contains(canvas, picture, 3) for picture in PIXELS)
    short = np.asarray(canvas)[-16 - 3 * 16 * 2 - 16 : -16 - 3 * 16 - 16, 16 + 3 * 16 :, :3]
    assert (short == 255).all()  # beside the one picture of the second row


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    curve = {"loss/train": {1: 1.0, 2: 0.5}, "loss/test": {1: 1.0, 2: 0.6}, "learning_rate": {1: 1e-3, 2: 5e-4}}
    for name in ("one", "two"):
        figures.grid(PIXELS, tmp_path / f"{name}-grid.png", "t")
        figures.curves(curve, 2, tmp_path / f"{name}-curves.png")
    for part in ("grid.png", "curves.png"):
        assert (tmp_path / f"one-{part}").read_bytes() == (tmp_path / f"two-{part}").read_bytes()


def test_the_curves_mark_the_best_epoch_and_the_steps_of_the_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    epochs = range(1, 23)
    figures.curves(
        {
            "loss/train": {epoch: 1 / epoch for epoch in epochs},
            "loss/test": {epoch: 0.2 + abs(epoch - 19) / 100 for epoch in epochs},
            "learning_rate": {epoch: 0.001 * 0.5 ** ((epoch - 1) // 10) for epoch in epochs},
        },
        19,
        tmp_path / "curves.png",
    )
    losses, rates = drawn[0].axes
    assert [text.get_text() for text in losses.texts] == ["best: 0.2000, epoch 19"]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["Train", "Test"]
    falls = [line.get_xdata()[0] for line in rates.lines if line.get_linestyle() == ":"]
    assert falls == [11, 21]
    assert list(losses.lines[0].get_ydata()) == [1 / epoch for epoch in epochs]


def test_a_single_epoch_can_be_drawn(tmp_path: Path) -> None:
    figures.curves({"loss/train": {1: 1.0}, "loss/test": {1: 1.0}, "learning_rate": {1: 0.001}}, 1, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (800, 560)


def test_a_long_title_is_folded_and_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    for name, title in (("short", "cats"), ("long", r"$\\tom$.png and " * 12)):
        figures.grid(PIXELS, tmp_path / f"{name}.png", title)
    with Image.open(tmp_path / "short.png") as short, Image.open(tmp_path / "long.png") as long:
        assert short.width == long.width
        assert short.height < long.height
        right = np.asarray(long.convert("L"))[:, -16:]
    assert (right == 255).all()
