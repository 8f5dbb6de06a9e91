import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catae.report import figures

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8)


def contains(canvas: Image.Image, image: np.ndarray, scale: int) -> bool:
    """Whether the canvas holds an image enlarged by `scale`, pixel for pixel."""
    whole = np.asarray(canvas.convert("RGB"))
    wanted = image.repeat(scale, 0).repeat(scale, 1)
    height, width = wanted.shape[:2]
    rows, columns = np.nonzero((whole == wanted[0, 0]).all(-1))
    return any(
        np.array_equal(whole[row : row + height, column : column + width], wanted)
        for row, column in zip(rows, columns, strict=True)
    )


def test_a_grid_shows_every_image_pixel_for_pixel(tmp_path: Path) -> None:
    figures.grid(PIXELS, tmp_path / "grid.png", "eleven images", columns=4)
    canvas = Image.open(io.BytesIO((tmp_path / "grid.png").read_bytes()))
    assert all(contains(canvas, image, 2) for image in PIXELS)


@pytest.mark.parametrize(("count", "lines"), [(11, 1), (8, 2), (3, 1)])
def test_grid_layout_gives_the_position_of_every_image(tmp_path: Path, count: int, lines: int) -> None:
    figures.grid(PIXELS[:count], tmp_path / "grid.png", "\n".join(["images"] * lines))
    canvas = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    layout = figures.grid_layout(count, 16, len(canvas))
    for number, image in enumerate(PIXELS[:count]):
        row, column = divmod(number, layout.columns)
        left, top = layout.left + column * layout.pitch, layout.top + row * layout.pitch
        shown = canvas[top : top + layout.side, left : left + layout.side]
        assert np.array_equal(shown, image.repeat(2, 0).repeat(2, 1))


def test_pairs_show_every_image_above_its_counterpart(tmp_path: Path) -> None:
    figures.pairs(PIXELS, 255 - PIXELS, tmp_path / "pairs.png", "eleven images", columns=4)
    canvas = Image.open(io.BytesIO((tmp_path / "pairs.png").read_bytes()))
    assert all(contains(canvas, np.vstack([image]), 2) for image in (*PIXELS, *(255 - PIXELS)))
    assert contains(canvas, np.vstack([PIXELS[0], np.full((2, 16, 3), 255, np.uint8), 255 - PIXELS[0]]), 2)


def test_rows_show_every_image_pixel_for_pixel(tmp_path: Path) -> None:
    figures.rows([PIXELS[:3], PIXELS[3:4], PIXELS[4:]], tmp_path / "rows.png", "three groups", scale=3)
    canvas = Image.open(io.BytesIO((tmp_path / "rows.png").read_bytes()))
    assert all(contains(canvas, image, 3) for image in PIXELS)
    short = np.asarray(canvas)[-16 - 3 * 16 * 2 - 16 : -16 - 3 * 16 - 16, 16 + 3 * 16 :, :3]
    assert (short == 255).all()  # next to the only image of the second row


def test_the_same_figure_is_the_same_bytes(tmp_path: Path) -> None:
    curve = {"loss/train": {1: 1.0, 2: 0.5}, "loss/test": {1: 1.0, 2: 0.6}, "learning_rate": {1: 1e-3, 2: 5e-4}}
    for name in ("one", "two"):
        figures.grid(PIXELS, tmp_path / f"{name}-grid.png", "t")
        figures.curves(curve, 2, tmp_path / f"{name}-curves.png")
    for part in ("grid.png", "curves.png"):
        assert (tmp_path / f"one-{part}").read_bytes() == (tmp_path / f"two-{part}").read_bytes()


def test_curves_mark_the_best_epoch_and_the_steps_of_the_learning_rate(
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
    decays = [line.get_xdata()[0] for line in rates.lines if line.get_linestyle() == ":"]
    assert decays == [11, 21]
    assert list(losses.lines[0].get_ydata()) == [1 / epoch for epoch in epochs]


def test_a_single_epoch_can_be_drawn(tmp_path: Path) -> None:
    figures.curves({"loss/train": {1: 1.0}, "loss/test": {1: 1.0}, "learning_rate": {1: 0.001}}, 1, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert image.size == (800, 560)


def test_a_long_title_is_wrapped_and_dollar_signs_are_not_math(tmp_path: Path) -> None:
    for name, title in (("short", "cats"), ("long", r"$\\tom$.png and " * 12)):
        figures.grid(PIXELS, tmp_path / f"{name}.png", title)
    with Image.open(tmp_path / "short.png") as short, Image.open(tmp_path / "long.png") as long:
        assert short.width == long.width
        assert short.height < long.height
        right = np.asarray(long.convert("L"))[:, -16:]
    assert (right == 255).all()
