"""What a source holds, for people, before anyone trains: in a terminal, and as a page with pictures."""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from catae.data import sources
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.ingest import DataReport
from catae.report import figures, html
from catae.system.text import count, percent, printable

SHEET = 96  # pictures
SIDE = 64  # pixels, of a picture on the page: 200 pictures of that size have 1 MB, whatever size the set has
ELSEWHERE = "in the output of catae inspect --json"
HERE = "catae, which keeps copies together, leaves 0"


def text(report: DataReport) -> RenderableType:
    """The report for a terminal of 80 columns or more. No name in it is taken for markup or steers the terminal."""
    blocks: list[RenderableType] = [
        Text(f"{printable(sources.label(report.source))}: {_headline(report)}", style="bold"),
        Text(),
        _facts(report),
    ]
    if report.groups:
        blocks += [Text(), Text(f"{html.leak(report.plain_split_leak)}; {HERE}.")]
    blocks += _table("Rejects", report.rejects, "reason") + _table("Notes", report.notes, "note") + _groups(report)
    return Group(*blocks)


def draw_copies(images: ImageStore, report: DataReport, path: Path) -> bool:
    """Draws the largest groups of copies, one a row, to the PNG `path`; without any there is no file, and False."""
    groups = [group[: html.COPIES] for group in report.groups[: html.GROUPS]]
    if not groups:
        path.unlink(missing_ok=True)
        return False
    wanted = {name for group in groups for name in group}
    position = {name: index for index, name in enumerate(images.names) if name in wanted}
    rows = [_shrunk(images.take([position[name] for name in group])) for group in groups]
    figures.rows(rows, path, "copies, a group in each row", scale=SIDE // rows[0].shape[1])
    return True


def write_html(images: ImageStore, report: DataReport, path: Path) -> None:
    """Writes the report as one self-contained page, with a sample of the pictures and the largest groups of copies."""
    positions = np.linspace(0, len(images) - 1, min(SHEET, len(images))).astype(np.int64)
    tiles = _shrunk(images.take(positions))
    names = [images.names[position] for position in positions]
    html.write(
        path,
        "inspect.html",
        data=report.to_dict(),
        label=sources.label(report.source),
        headline=_headline(report),
        sheet=[(name, html.embed_pixels(tile)) for name, tile in zip(names, tiles, strict=True)],
        shrunk=images.size > SIDE,
        pictures=_copies(images, report),
        here=HERE,
        version=version("catae"),
    )


def _copies(images: ImageStore, report: DataReport) -> dict[str, html.Picture]:
    """The figure of copies for the page, if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "duplicates.png"
        return {path.name: html.embed(path, lossy=html.QUALITY)} if draw_copies(images, report, path) else {}


def _shrunk(pixels: Pixels) -> Pixels:
    """Pictures of a side of 2^n pixels, at `SIDE` at the most: each pixel the mean of those that it stands for."""
    step = pixels.shape[1] // SIDE
    if step <= 1:
        return pixels
    blocks = pixels.reshape(len(pixels), SIDE, step, SIDE, step, 3)
    shrunk: Pixels = blocks.mean((2, 4)).round().astype(np.uint8)
    return shrunk


def _headline(report: DataReport) -> str:
    """What a person should know first: how many pictures are copies, and how many files gave none."""
    copies = report.pictures - report.distinct + report.mirrored + report.near
    words = "No picture is a copy of another."
    if copies:
        words = f"{percent(copies / report.pictures)} of the pictures are copies of others."
    return f"{words} {count(len(report.rejects), 'file')} can't be read." if report.rejects else words


def _facts(report: DataReport) -> Table:
    """The counts, a line each."""
    facts = {
        "Source": printable(report.source),
        "Files": f"{report.files:,}",
        "Pictures": f"{report.pictures:,} of {report.image_size}x{report.image_size}, {report.distinct:,} distinct",
        "Identical copies": f"{report.pictures - report.distinct:,}",
        "Mirror images": f"{report.mirrored:,}",
        "Near copies": f"{report.near:,}",
        "Original sizes": _kinds(report.original_sizes),
        "Modes": _kinds(report.modes),
        "Rejects": f"{len(report.rejects):,}",
        "Passed over": f"{len(report.passed_over):,}",
    }
    if report.passed_over:
        facts["Among them"] = _listed(report.passed_over)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(Text(name), Text(value))
    return grid


def _table(heading: str, items: Sequence[Mapping[str, str]], key: str) -> list[RenderableType]:
    """Names of files with what there is to say of each, under a heading; nothing if there are no items."""
    if not items:
        return []
    shown, rest = html.first(items, html.NAMES)
    table = _headed("File", key.capitalize())
    for item in shown:
        table.add_row(Text(printable(item["name"])), Text(printable(item[key])))
    return _block(f"{heading}: {count(len(items), 'file')}", table, f"and {rest:,} more, {ELSEWHERE}" if rest else "")


def _groups(report: DataReport) -> list[RenderableType]:
    """The names of the largest groups of copies; nothing if there are no groups."""
    shown = report.groups[: html.GROUPS]
    if not shown:
        return []
    table = _headed("Pictures", "The largest groups")
    table.columns[0].justify = "right"
    for group in shown:
        table.add_row(Text(f"{len(group):,}"), Text(_listed(group)))
    rest = report.group_count - len(shown)
    more = f"and {rest:,} more; the largest {len(report.groups):,} of all are {ELSEWHERE}" if rest else ""
    return _block(f"Copies: {count(report.group_count, 'group')}", table, more)


def _headed(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _block(heading: str, table: Table, more: str) -> list[RenderableType]:
    block: list[RenderableType] = [Text(), Text(heading, style="bold"), table]
    return [*block, Text(more, style="dim")] if more else block


def _kinds(counts: Mapping[str, int]) -> str:
    """Sizes or modes, the most frequent first, like 'RGB (15,747), L (3)'."""
    shown, rest = html.first(counts, html.KINDS)
    words = ", ".join(f"{kind} ({number:,})" for kind, number in shown)
    return f"{words} and {rest:,} more" if rest else words


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown, rest = html.first(names, html.FEW)
    words = ", ".join(printable(name) for name in shown)
    return f"{words} and {rest:,} more" if rest else words
