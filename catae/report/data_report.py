"""Report what a source holds before training: in a terminal, and as a page with images."""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from catae.data import sources
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.ingest import DataReport
from catae.report import figures, html, tables
from catae.report.tables import Table
from catae.system.text import count, percent, printable

SHEET = 96  # images on the page
THUMBNAIL = 64  # pixels, of an image on the page: 200 images of that size are 1 MB, whatever size the set has
ROWS = 20  # of a table of files
LISTED = 5  # names in a line
KINDS = 8  # original sizes and modes
GROUPS, GROUP_SIZE = 12, 8  # groups of duplicates, and images of each, that `duplicates.png` shows
JSON = "listed by catae inspect --json"
LEAK = "catae keeps duplicates together, so its split leaves 0"


def data_report_text(report: DataReport) -> RenderableType:
    """Return the report for a terminal of 80 columns or more. Names are neither markup nor control sequences."""
    blocks: list[RenderableType] = [
        Text(f"{printable(sources.label(report.source))}: {headline(report)}", style="bold"),
        Text(),
        _facts_grid(count_facts(report) | source_facts(report)),
    ]
    if report.groups:
        blocks += [Text(), Text(f"{leak_sentence(report)}; {LEAK}.")]
    for list_files in (reject_table, unsupported_table, note_table, group_table):
        table = list_files(report, JSON)
        if table.rows:
            blocks += [Text(), Text(table.title, style="bold"), tables.to_text(table)]
            blocks += [Text(table.note, style="dim")] if table.note else []
    return Group(*blocks)


def write_data_page(images: ImageStore | None, report: DataReport, path: Path) -> None:
    """Write the report as one self-contained page, with a sample of images and the largest groups of duplicates."""
    html.write_page(
        path,
        "inspect.html",
        data=report,
        label=sources.label(report.source),
        headline=headline(report),
        sheet=_embed_sample(images) if images else [],
        downscaled=images is not None and images.size > THUMBNAIL,
        images=_embed_duplicates(images, report) if images else {},
        leak=f"{leak_sentence(report)}; {LEAK}.",
        version=version("catae"),
        **page_facts(report, JSON),
    )


def page_facts(report: DataReport, rest: str) -> dict[str, Any]:
    """Return what the pages' templates share on data: facts and tables.

    Args:
        report: the report.
        rest: where the rows that the tables leave out are, like 'listed in data.json'.
    """
    return {
        "found": found_sentence(report),
        "duplicates": duplicate_facts(report),
        "originals": source_facts(report),
        "groups": group_table(report, rest),
        "notes": note_table(report, rest),
        "rejects": reject_table(report, rest),
        "unsupported": unsupported_table(report, rest),
        "group_size": GROUP_SIZE,
    }


def draw_duplicates(images: ImageStore, report: DataReport, path: Path) -> bool:
    """Draw the largest groups of duplicates, one per row, to the PNG `path`.

    If there are no groups, remove the file and return False.
    """
    groups = [group[:GROUP_SIZE] for group in report.groups[:GROUPS]]
    if not groups:
        path.unlink(missing_ok=True)
        return False
    members = {name for group in groups for name in group}
    positions = {name: position for position, name in enumerate(images.names) if name in members}
    rows = [_downscale(images.take([positions[name] for name in group])) for group in groups]
    figures.rows(rows, path, "duplicates, one group per row", scale=THUMBNAIL // rows[0].shape[1])
    return True


def _embed_sample(images: ImageStore) -> list[tuple[str, html.EmbeddedImage]]:
    """Return the names and thumbnails of images for the page, evenly spaced."""
    positions = np.linspace(0, len(images) - 1, min(SHEET, len(images))).astype(np.int64)
    thumbnails = _downscale(images.take(positions))
    names = [images.names[position] for position in positions]
    return [(name, html.embed_pixels(pixels)) for name, pixels in zip(names, thumbnails, strict=True)]


def _embed_duplicates(images: ImageStore, report: DataReport) -> dict[str, html.EmbeddedImage]:
    """Return the figure of duplicates for the page, if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "duplicates.png"
        drawn = draw_duplicates(images, report, path)
        return {path.name: html.embed_file(path, quality=html.QUALITY)} if drawn else {}


def _downscale(pixels: Pixels) -> Pixels:
    """Downscale images with a side of 2^n pixels to at most `THUMBNAIL`, by the mean of each block."""
    step = pixels.shape[1] // THUMBNAIL
    if step <= 1:
        return pixels
    blocks = pixels.reshape(len(pixels), THUMBNAIL, step, THUMBNAIL, step, 3)
    downscaled: Pixels = blocks.mean((2, 4)).round().astype(np.uint8)
    return downscaled


def headline(report: DataReport) -> str:
    """Return the share of images that are duplicates, and the numbers of images that cannot be read."""
    duplicates = report.pictures - report.distinct + report.mirrored + report.near
    sentences = ["There are no duplicates." if report.pictures else "There are no images to train on."]
    if duplicates:
        sentences = [f"{percent(duplicates / report.pictures)} of the images are duplicates of others."]
    if report.rejects:
        sentences.append(f"{count(len(report.rejects), 'file')} cannot be decoded.")
    if report.unsupported:
        sentences.append(f"{count(len(report.unsupported), 'image')} in unsupported formats.")
    return " ".join(sentences)


def found_sentence(report: DataReport) -> str:
    """Return what was read: files, images, their size, and how many are distinct."""
    size = f"{report.image_size}x{report.image_size}"
    return f"{count(report.files, 'file')}, {count(report.pictures, 'image')} of {size}, {report.distinct:,} distinct"


def leak_sentence(report: DataReport) -> str:
    """Return the share of test images that would have a duplicate in train after a random split by file."""
    share = percent(report.plain_split_leak)
    return f"A random split by file would leave {share} of test images with a duplicate in train"


def count_facts(report: DataReport) -> dict[str, str]:
    """Return the counts of files and images."""
    return {
        "Source": printable(report.source),
        "Files": f"{report.files:,}",
        "Images": f"{report.pictures:,} of {report.image_size}x{report.image_size}, {report.distinct:,} distinct",
        **duplicate_facts(report),
        "Rejects": f"{len(report.rejects):,}",
        "Unsupported": f"{count(len(report.unsupported), 'image')} in other formats",
    }


def duplicate_facts(report: DataReport) -> dict[str, str]:
    """Return the counts of images beyond the first of their group."""
    return {
        "Duplicates": f"{report.pictures - report.distinct:,} identical",
        "Flipped": f"{report.mirrored:,}",
        "Near-duplicates": f"{report.near:,}",
        "Groups": f"{report.group_count:,}",
    }


def source_facts(report: DataReport) -> dict[str, str]:
    """Return what the source's files are: sizes, modes, and files that are not images."""
    facts = {
        "Original sizes": _kinds(report.original_sizes),
        "Modes": _kinds(report.modes),
        "Skipped files": f"{len(report.passed_over):,} that are not images",
    }
    return facts | ({"Among them": _listed(report.passed_over, LISTED)} if report.passed_over else {})


def reject_table(report: DataReport, rest: str) -> Table:
    """Return the files that cannot be decoded, with the reasons."""
    return _file_table("Rejects", report.rejects, "reason", rest)


def unsupported_table(report: DataReport, rest: str) -> Table:
    """Return the images in formats that are not read, with what to do."""
    return _file_table("Unsupported formats", report.unsupported, "reason", rest)


def note_table(report: DataReport, rest: str) -> Table:
    """Return the images that were decoded although something is unusual."""
    return _file_table("Notes", report.notes, "note", rest)


def _file_table(title: str, items: Sequence[Mapping[str, str]], key: str, rest: str) -> Table:
    shown, others = html.first(items, ROWS)
    return Table(
        title=f"{title}: {count(len(items), 'file')}",
        columns=(tables.column("File", code=True), tables.column(key.capitalize())),
        rows=tuple(tables.row(item["name"], item[key]) for item in shown),
        note=f"and {others:,} more, {rest}" if others else "",
    )


def group_table(report: DataReport, rest: str) -> Table:
    """Return the names of the largest groups of duplicates."""
    shown = report.groups[:GROUPS]
    others, listed = report.group_count - len(shown), len(report.groups)
    which = "all" if listed == report.group_count else f"the largest {listed:,} of"
    return Table(
        title=f"Duplicates: {count(report.group_count, 'group')}",
        columns=(tables.column("Images", numeric=True), tables.column("Largest groups", code=True)),
        rows=tuple(tables.row(f"{len(group):,}", _listed(group, GROUP_SIZE)) for group in shown),
        note=f"and {count(others, 'more group')}; {which} {report.group_count:,} are {rest}" if others else "",
    )


def _facts_grid(facts: Mapping[str, str]) -> Grid:
    """Return facts for a terminal, one per line."""
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(Text(name), Text(value))
    return grid


def _kinds(counts: Mapping[str, int]) -> str:
    """Return sizes or modes, the most frequent first, like 'RGB (15,747), L (3)'."""
    shown, others = html.first(counts, KINDS)
    listed = ", ".join(f"{kind} ({number:,})" for kind, number in shown)
    return f"{listed} and {others:,} more" if others else listed


def _listed(names: Sequence[str], limit: int) -> str:
    """Return the first names, and the number of the others."""
    shown, others = html.first(names, limit)
    listed = ", ".join(printable(name) for name in shown)
    return f"{listed} and {others:,} more" if others else listed
