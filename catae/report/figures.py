"""Draw figures: curves, grids of images, and maps of latents. Pixel values are never rescaled."""

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
GAP, MARGIN, COLUMNS = 4, 16, 8  # white pixels between two images, and around all; images per row
CHARACTER = 7  # average width of a title's character, in pixels
MAX_WIDTH = 65_000  # pixels; matplotlib draws less than 2^16
INK, GREY, TRAIN, TEST, VALIDATION = "#1f2328", "#6e7781", "#3b76af", "#e0702e", "#2f8f5b"
THUMBNAIL, THUMBNAILS = 40, 120  # width on a map in pixels, and at most how many


def curves(scalars: Mapping[str, Mapping[int, float]], best: int, path: Path) -> None:
    """Draw the losses of an event log by epoch, with the best epoch and the steps of the learning rate.

    Args:
        scalars: by tag and epoch, from `tensorboard.read_scalars`.
        best: the epoch whose weights were kept.
        path: the PNG to write.
    """
    train, test, rate = (scalars.get(tag, {}) for tag in ("loss/train", "loss/test", "learning_rate"))
    figure = Figure(figsize=(8, 5.6), dpi=DPI, layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))

    losses.plot(list(train), list(train.values()), "o-", color=TRAIN, markersize=3, label="Train")
    losses.plot(list(test), list(test.values()), "o-", color=TEST, markersize=3, label="Test")
    monitored = scalars.get("loss/validation", test)
    if monitored is not test:
        losses.plot(list(monitored), list(monitored.values()), "o-", color=VALIDATION, markersize=3, label="Validation")
    if best in monitored:  # it is missing if the log was damaged
        losses.plot(best, monitored[best], "o", color=INK, markersize=10, markerfacecolor="none", markeredgewidth=1.5)
        losses.annotate(
            f"best: {monitored[best]:.4f}, epoch {best}",
            (best, monitored[best]),
            (0, 24),
            textcoords="offset points",
            ha="left" if best <= max(test) / 2 else "right",
            color=INK,
            arrowprops={"arrowstyle": "-", "color": GREY},
        )
    losses.set_ylabel("L1 loss, pixels in [-1, 1]")
    losses.set_title("Loss by epoch", loc="left")
    losses.legend(frameon=False)
    rates.step(list(rate), list(rate.values()), color=INK, where="post")
    rates.set_yscale("log", base=2)
    values = sorted(set(rate.values()), reverse=True)
    ticks = values[:: len(values) // 6 + 1]  # more than six labels overlap
    rates.set_yticks(ticks, [f"{value:.2g}" for value in ticks], fontsize=7)
    rates.minorticks_off()
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    rates.xaxis.get_major_locator().set_params(integer=True)
    decays = [step for before, step in zip(rate, list(rate)[1:], strict=False) if rate[step] < rate[before]]
    for axes in (losses, rates):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eaeef2")
        for step in decays:
            axes.axvline(step, color=GREY, linewidth=0.7, linestyle=":")
    _save(figure, path)


def losses(runs: Sequence[tuple[str, Mapping[str, Mapping[int, float]]]], path: Path) -> None:
    """Draw the losses of several runs by epoch, a colour for each.

    Args:
        runs: the label of each and its scalars, from `tensorboard.read_scalars`; at most 10.
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
    axes.set_title("Loss by epoch", loc="left")
    axes.set_ylabel("L1 loss, pixels in [-1, 1]")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eaeef2")
    for text in figure.legend(loc="outside lower left", frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    _save(figure, path)


def grid(pixels: Pixels, path: Path, title: str, columns: int = COLUMNS, scale: int = 2) -> None:
    """Draw images in rows, under a title.

    Args:
        pixels: uint8 (images, height, width, 3).
        path: the PNG to write.
        title: one or more lines.
        columns: images per row.
        scale: factor by which each pixel is enlarged.
    """
    _draw(_tiles(pixels, min(columns, len(pixels)), scale), path, title)


def max_columns(size: int, scale: int = 2) -> int:
    """Return how many images of this width fit in a row of `grid`."""
    return MAX_WIDTH // (size * scale + GAP)


@dataclass(frozen=True)
class GridLayout:
    """The layout of a grid in pixels: the top left corner of its first image, the images' side, and their pitch."""

    left: int
    top: int
    side: int
    pitch: int
    columns: int


def grid_layout(count: int, size: int, height: int, scale: int = 2) -> GridLayout:
    """Return where `grid` draws `count` images of `size` pixels, in a PNG of `height` pixels."""
    side, rows = size * scale, -(-count // COLUMNS)
    pitch = side + GAP
    return GridLayout(MARGIN, height - MARGIN - rows * pitch + GAP, side, pitch, COLUMNS)


def pairs(above: Pixels, below: Pixels, path: Path, title: str, columns: int = COLUMNS, scale: int = 2) -> None:
    """Draw images in rows of `columns`, each row above the row of their counterparts.

    Args:
        above: uint8 (images, height, width, 3).
        below: the same shape.
        path: the PNG to write.
        title: one or more lines.
        columns: images per row.
        scale: factor by which each pixel is enlarged.
    """
    columns = min(columns, len(above))
    rows: list[Pixels] = []
    for start in range(0, len(above), columns):
        upper, lower = (_tiles(part[start : start + columns], columns, scale) for part in (above, below))
        rows += [_white(4 * GAP, upper), upper, _white(GAP, upper), lower]
    _draw(np.vstack(rows[1:]), path, title)


def rows(rows: Sequence[Pixels], path: Path, title: str, scale: int = 2) -> None:
    """Draw groups of images, one group per row. Rows may differ in length.

    Args:
        rows: each uint8 (images, height, width, 3).
        path: the PNG to write.
        title: one or more lines.
        scale: factor by which each pixel is enlarged.
    """
    longest = max(len(row) for row in rows)
    bands: list[Pixels] = []
    for row in rows:
        band = _tiles(row, longest, scale)
        bands += [_white(4 * GAP, band), band]
    _draw(np.vstack(bands[1:]), path, title)


def _white(height: int, like: Pixels) -> Pixels:
    """Return a white band as wide as another."""
    return np.full((height, *like.shape[1:]), 255, np.uint8)


def latents(
    deviations: Mapping[str, Sequence[float]],
    points: npt.NDArray[np.float64],
    axes: tuple[str, str],
    pixels: Pixels,
    path: Path,
) -> None:
    """Draw the standard deviation of latents in each dimension, next to a map of some of them.

    Args:
        deviations: the standard deviations of each set of latents, in descending order.
        points: latents projected to the map, (images, 2).
        axes: labels of the map's axes.
        pixels: thumbnails of these images: uint8 (images, side, side, 3).
        path: the PNG to write.
    """
    figure = Figure(figsize=(13, 7.6), dpi=DPI, layout=_with_margins())
    deviation_axes, map_axes = figure.subplots(1, 2, width_ratios=(4, 9))
    for (label, values), color in zip(deviations.items(), (TRAIN, TEST), strict=False):
        ranks = range(1, len(values) + 1)
        deviation_axes.plot(ranks, values, ".-", color=color, markersize=4, linewidth=1, label=label)
    deviation_axes.axhline(1, color=INK, linewidth=0.9, linestyle="--", label="N(0, I)")
    deviation_axes.set_ylim(bottom=0)
    deviation_axes.xaxis.get_major_locator().set_params(integer=True)
    deviation_axes.set_title("Standard deviation of each dimension", loc="left")
    deviation_axes.set_xlabel("dimension, in descending order")
    deviation_axes.legend(frameon=False)
    deviation_axes.spines[["top", "right"]].set_visible(False)
    deviation_axes.grid(axis="y", color="#eaeef2")
    map_axes.set_title(f"Map of the latents of {len(points):,} test images", loc="left")
    _map(figure, map_axes, points, axes, pixels)
    _save(figure, path)


def latent_map(points: npt.NDArray[np.float64], axes: tuple[str, str], pixels: Pixels, path: Path, title: str) -> None:
    """Draw a map of latents; the arguments are those of `latents`."""
    figure = Figure(figsize=(11, 11), dpi=DPI, layout=_with_margins())
    map_axes = figure.subplots()
    map_axes.set_title(title, loc="left")
    _map(figure, map_axes, points, axes, pixels)
    _save(figure, path)


def _with_margins() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=MARGIN / DPI, h_pad=MARGIN / DPI)


def _map(figure: Figure, plot: Axes, points: npt.NDArray[np.float64], axes: tuple[str, str], pixels: Pixels) -> None:
    """Draw points on a plane, each axis to its own scale, and thumbnails of some of them, pixel for pixel."""
    plot.plot(points[:, 0], points[:, 1], ".", color=GREY, markersize=3)
    plot.set(xlabel=axes[0], ylabel=axes[1], xticks=[], yticks=[])
    plot.margins(0.05)
    plot.spines[:].set_color("#eaeef2")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # keep the layout while images are placed by pixel
    positions = plot.transData.transform(points)
    for number in _apart(positions, pixels.shape[1] + 1, THUMBNAILS):
        left, bottom = (positions[number] - pixels.shape[1] / 2).round()
        figure.figimage(pixels[number], left, bottom, origin="upper", zorder=3)


def _apart(positions: npt.NDArray[np.float64], gap: float, limit: int) -> list[int]:
    """Return the first points that are at least `gap` from each other, horizontally or vertically."""
    selected: list[int] = []
    for number, position in enumerate(positions):
        if len(selected) < limit and (np.abs(positions[selected] - position).max(1) >= gap).all():
            selected.append(number)
    return selected


def _tiles(pixels: Pixels, columns: int, scale: int) -> Pixels:
    """Return images tiled in rows, with white between them and in empty tiles."""
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    framed = np.pad(pixels, ((0, -len(pixels) % columns), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    framed[len(pixels) :] = 255
    rows, height, width = len(framed) // columns, *framed.shape[1:3]
    tiled = framed.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return tiled.reshape(rows * height, columns * width, 3)[:-GAP, :-GAP]


def _draw(canvas: Pixels, path: Path, title: str) -> None:
    """Draw a canvas under its title, pixel for pixel."""
    across = max(canvas.shape[1], 420)
    lines = [part for line in title.splitlines() for part in wrap(line, across // CHARACTER)]
    height, width = canvas.shape[0] + 20 + 18 * len(lines) + MARGIN, across + 2 * MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    text = figure.text(MARGIN / width, 1 - 12 / height, "\n".join(lines), va="top", fontsize=9, color=INK)
    text.set(linespacing=1.4, parse_math=False)  # file names can have dollar signs
    figure.figimage(canvas, MARGIN, MARGIN, origin="upper")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    data = BytesIO()
    # Without matplotlib's version in the metadata, so that the same figure is the same bytes.
    figure.savefig(data, format=path.suffix[1:], metadata={"Software": None})
    files.write_bytes(path, data.getvalue())
