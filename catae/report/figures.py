"""Pictures for people: curves and grids. Every pixel is shown as it is, never stretched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import wrap

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from catae.data.decode import Pixels
from catae.system import files

DPI = 100
GAP, MARGIN, COLUMNS = 4, 16, 8  # white pixels between two pictures, and around all; pictures in a row
CHARACTER = 7  # pixels that a character of a title takes, on average
WIDEST = 65_000  # pixels; matplotlib draws less than 2^16
INK, GREY, TRAIN, TEST, VALIDATION = "#1f2328", "#6e7781", "#3b76af", "#e0702e", "#2f8f5b"
THUMBNAIL, THUMBNAILS = 40, 120  # pixels wide on a map, and how many


def curves(scalars: Mapping[str, Mapping[int, float]], best: int, path: Path) -> None:
    """Draws the losses of an event log over the epochs, with the epoch that was kept and the learning rate's steps.

    Args:
        scalars: as `catae.events.read_scalars` gives them.
        best: the epoch whose weights were kept.
        path: the PNG to write.
    """
    train, test, rate = (scalars.get(tag, {}) for tag in ("loss/train", "loss/test", "learning_rate"))
    figure = Figure(figsize=(8, 5.6), dpi=DPI, layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))

    losses.plot(list(train), list(train.values()), "o-", color=TRAIN, markersize=3, label="Train")
    losses.plot(list(test), list(test.values()), "o-", color=TEST, markersize=3, label="Test")
    judged = scalars.get("loss/validation", test)
    if judged is not test:
        losses.plot(list(judged), list(judged.values()), "o-", color=VALIDATION, markersize=3, label="Validation")
    if best in judged:  # it is not, where the log was damaged
        losses.plot(best, judged[best], "o", color=INK, markersize=10, markerfacecolor="none", markeredgewidth=1.5)
        losses.annotate(
            f"best: {judged[best]:.4f}, epoch {best}",
            (best, judged[best]),
            (0, 24),
            textcoords="offset points",
            ha="left" if best < max(test) / 2 else "right",
            color=INK,
            arrowprops={"arrowstyle": "-", "color": GREY},
        )
    losses.set_ylabel("L1 loss, pixels in [-1, 1]")
    losses.set_title("Loss after each epoch", loc="left")
    losses.legend(frameon=False)
    rates.step(list(rate), list(rate.values()), color=INK, where="post")
    rates.set_yscale("log", base=2)
    reached = sorted(set(rate.values()), reverse=True)
    shown = reached[:: len(reached) // 6 + 1]  # more than six names touch each other
    rates.set_yticks(shown, [f"{value:.2g}" for value in shown], fontsize=7)
    rates.minorticks_off()
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    rates.xaxis.get_major_locator().set_params(integer=True)
    falls = [step for before, step in zip(rate, list(rate)[1:], strict=False) if rate[step] < rate[before]]
    for axes in (losses, rates):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eaeef2")
        for step in falls:
            axes.axvline(step, color=GREY, linewidth=0.7, linestyle=":")
    _save(figure, path)


def losses(runs: Sequence[tuple[str, Mapping[str, Mapping[int, float]]]], path: Path) -> None:
    """Draws the losses of several runs over the epochs, a colour for each.

    Args:
        runs: what each is called, and its scalars, as `catae.events.read_scalars` gives them; at most 10.
        path: the PNG to write.
    """
    figure = Figure(figsize=(8, 4.8 + 0.18 * len(runs)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for number, (name, scalars) in enumerate(runs):
        color = colormaps["tab10"](number)
        for tag, line in (("loss/test", "o-"), ("loss/train", ":")):
            values = scalars.get(tag, {})
            label = name if tag == "loss/test" else None
            axes.plot(list(values), list(values.values()), line, color=color, markersize=3, label=label)
    axes.plot([], [], "o-", color=GREY, markersize=3, label="solid: test")
    axes.plot([], [], ":", color=GREY, label="dotted: train")
    axes.set_title("Loss after each epoch", loc="left")
    axes.set_ylabel("L1 loss, pixels in [-1, 1]")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eaeef2")
    for text in figure.legend(loc="outside lower left", frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    _save(figure, path)


def grid(pixels: Pixels, path: Path, title: str, columns: int = COLUMNS, scale: int = 2) -> None:
    """Draws pictures in rows, under a title.

    Args:
        pixels: uint8 (pictures, height, width, 3).
        path: the PNG to write.
        title: one line, or several.
        columns: pictures in a row.
        scale: how many times as large each pixel is drawn.
    """
    _draw(_tiles(pixels, min(columns, len(pixels)), scale), path, title)


def most_columns(size: int, scale: int = 2) -> int:
    """How many pictures of this width a row of `grid` has room for."""
    return WIDEST // (size * scale + GAP)


@dataclass(frozen=True)
class Places:
    """Where the pictures of a grid are: the first one's corner, their size, and how far one is from the next, in pixels
    from the top left."""

    left: int
    top: int
    side: int
    pitch: int
    columns: int


def places(count: int, size: int, height: int, scale: int = 2) -> Places:
    """Where `grid` has drawn `count` pictures of `size` pixels, in a PNG of `height` pixels."""
    side, rows = size * scale, -(-count // COLUMNS)
    pitch = side + GAP
    return Places(MARGIN, height - MARGIN - rows * pitch + GAP, side, pitch, COLUMNS)


def pairs(above: Pixels, below: Pixels, path: Path, title: str, columns: int = COLUMNS, scale: int = 2) -> None:
    """Draws pictures in rows of `columns`, each row over the row of their counterparts.

    Args:
        above: uint8 (pictures, height, width, 3).
        below: the same shape.
        path: the PNG to write.
        title: one line, or several.
        columns: pictures in a row.
        scale: how many times as large each pixel is drawn.
    """
    columns = min(columns, len(above))
    rows: list[Pixels] = []
    for start in range(0, len(above), columns):
        upper, lower = (_tiles(part[start : start + columns], columns, scale) for part in (above, below))
        rows += [_white(4 * GAP, upper), upper, _white(GAP, upper), lower]
    _draw(np.vstack(rows[1:]), path, title)


def rows(rows: Sequence[Pixels], path: Path, title: str, scale: int = 2) -> None:
    """Draws pictures that belong together in a row, rows apart; one may be shorter than another.

    Args:
        rows: each uint8 (pictures, height, width, 3).
        path: the PNG to write.
        title: one line, or several.
        scale: how many times as large each pixel is drawn.
    """
    longest = max(len(row) for row in rows)
    bands: list[Pixels] = []
    for row in rows:
        band = _tiles(row, longest, scale)
        bands += [_white(4 * GAP, band), band]
    _draw(np.vstack(bands[1:]), path, title)


def _white(height: int, like: Pixels) -> Pixels:
    """A white band as wide as another."""
    return np.full((height, *like.shape[1:]), 255, np.uint8)


def latents(
    deviations: Mapping[str, Sequence[float]],
    points: npt.NDArray[np.float64],
    axes: tuple[str, str],
    pixels: Pixels,
    path: Path,
) -> None:
    """Draws how wide codes lie in each dimension, beside a map of some of them.

    Args:
        deviations: of the dimensions, the largest first, by what the codes are of.
        points: where codes lie on the map, (pictures, 2).
        axes: what the two axes of the map are.
        pixels: the pictures of these codes, small: uint8 (pictures, side, side, 3).
        path: the PNG to write.
    """
    figure = Figure(figsize=(13, 7.6), dpi=DPI, layout=_with_margins())
    spreads, map_axes = figure.subplots(1, 2, width_ratios=(4, 9))
    for (label, values), color in zip(deviations.items(), (TRAIN, TEST), strict=False):
        ranks = range(1, len(values) + 1)
        spreads.plot(ranks, values, ".-", color=color, markersize=4, linewidth=1, label=label)
    spreads.axhline(1, color=INK, linewidth=0.9, linestyle="--", label="N(0, I)")
    spreads.set_ylim(bottom=0)
    spreads.xaxis.get_major_locator().set_params(integer=True)
    spreads.set_title("Standard deviation of each dimension", loc="left")
    spreads.set_xlabel("dimensions, the widest first")
    spreads.legend(frameon=False)
    spreads.spines[["top", "right"]].set_visible(False)
    spreads.grid(axis="y", color="#eaeef2")
    map_axes.set_title(f"Where {len(points):,} test pictures lie", loc="left")
    _map(figure, map_axes, points, axes, pixels)
    _save(figure, path)


def atlas(points: npt.NDArray[np.float64], axes: tuple[str, str], pixels: Pixels, path: Path, title: str) -> None:
    """Draws a map of codes alone; the arguments are those of `latents`."""
    figure = Figure(figsize=(11, 11), dpi=DPI, layout=_with_margins())
    map_axes = figure.subplots()
    map_axes.set_title(title, loc="left")
    _map(figure, map_axes, points, axes, pixels)
    _save(figure, path)


def _with_margins() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=MARGIN / DPI, h_pad=MARGIN / DPI)


def _map(figure: Figure, on: Axes, points: npt.NDArray[np.float64], axes: tuple[str, str], pixels: Pixels) -> None:
    """Points on a plane, each axis to its own scale, and the pictures of some of them in their places, pixel for
    pixel."""
    on.plot(points[:, 0], points[:, 1], ".", color=GREY, markersize=3)
    on.set(xlabel=axes[0], ylabel=axes[1], xticks=[], yticks=[])
    on.margins(0.05)
    on.spines[:].set_color("#eaeef2")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what has its place now keeps it
    places = on.transData.transform(points)
    for number in _apart(places, pixels.shape[1] + 1, THUMBNAILS):
        left, bottom = (places[number] - pixels.shape[1] / 2).round()
        figure.figimage(pixels[number], left, bottom, origin="upper", zorder=3)


def _apart(places: npt.NDArray[np.float64], gap: float, most: int) -> list[int]:
    """The first places of which none is nearer than `gap` to another, in both directions."""
    chosen: list[int] = []
    for number, place in enumerate(places):
        if len(chosen) < most and (np.abs(places[chosen] - place).max(1) >= gap).all():
            chosen.append(number)
    return chosen


def _tiles(pixels: Pixels, columns: int, scale: int) -> Pixels:
    """Pictures in rows, with white between them and in the places that are left over."""
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    framed = np.pad(pixels, ((0, -len(pixels) % columns), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    framed[len(pixels) :] = 255
    rows, height, width = len(framed) // columns, *framed.shape[1:3]
    tiled = framed.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return tiled.reshape(rows * height, columns * width, 3)[:-GAP, :-GAP]


def _draw(canvas: Pixels, path: Path, title: str) -> None:
    """A picture under its title, each pixel of the picture on one of the figure."""
    across = max(canvas.shape[1], 420)
    lines = [part for line in title.splitlines() for part in wrap(line, across // CHARACTER)]
    height, width = canvas.shape[0] + 20 + 18 * len(lines) + MARGIN, across + 2 * MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    text = figure.text(MARGIN / width, 1 - 12 / height, "\n".join(lines), va="top", fontsize=9, color=INK)
    text.set(linespacing=1.4, parse_math=False)  # a file's name can have dollars
    figure.figimage(canvas, MARGIN, MARGIN, origin="upper")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    data = BytesIO()
    # Without the library's version in the file, so that the same picture is the same bytes.
    figure.savefig(data, format=path.suffix[1:], metadata={"Software": None})
    files.write_bytes(path, data.getvalue())
