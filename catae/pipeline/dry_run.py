"""Preview a run without writing anything: `catae train --dry-run`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catae.data import ingest, sources
from catae.pipeline import lifecycle
from catae.report import tables
from catae.report.tables import NONE, Table
from catae.settings import Settings, SweepSettings
from catae.system import hardware
from catae.system.text import count
from catae.training import preflight

DOWNLOADED = ("kaggle", "pets")  # kinds of sources that would have to be downloaded to be counted


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Attributes:
        settings: the value of each setting, and where it was set.
        files: number of files in the source; None if it would have to be downloaded to be counted.
        images: number of images, if the source has been decoded before.
        distinct: number of distinct images, likewise.
        disk_bytes: needed for the checkpoints, and for the image cache if the source is not in it.
        memory_bytes: needed for a training step, approximately.
        memory_left_bytes: available memory; None if unknown.
        resumes: the id of the run that would be resumed; None for a new run.
    """

    settings: dict[str, dict[str, Any]]
    files: int | None
    images: int | None
    distinct: int | None
    disk_bytes: int
    memory_bytes: int
    memory_left_bytes: int | None
    resumes: str | None


def preview_run(settings: Settings, origins: Mapping[str, str]) -> Preview:
    """Return what a run with these settings would do. Read the names of the source's files, but decode none.

    Raises:
        UserError: there is no such source, or the run to resume has other settings.
    """
    number, images, distinct = _count(settings)
    resumed = lifecycle.find_resumable(settings)
    left = hardware.available_memory()
    cached = images is not None
    pixels = 0 if cached else (number or 0) * 3 * settings.image_size**2
    return Preview(
        settings={
            name: {"value": value, "from": origins[name]}
            for name, value in settings.model_dump(mode="json", exclude=set(SweepSettings.model_fields)).items()
        },
        files=number,
        images=images,
        distinct=distinct,
        disk_bytes=preflight.disk_needed(settings) + pixels,
        memory_bytes=preflight.memory_needed(settings, settings.batch_size),
        memory_left_bytes=None if math.isinf(left) else round(left),
        resumes=resumed.id if resumed else None,
    )


def _count(settings: Settings) -> tuple[int | None, int | None, int | None]:
    """Return the number of files in the source, and of its images and distinct images where they are known."""
    if settings.source.partition(":")[0] in DOWNLOADED:
        return None, None, None
    if report := ingest.cached_report(settings.source, settings.output_dir / "cache", settings.image_size):
        images = report.pictures + len(report.rejects) + len(report.unsupported)
        return images, report.pictures, report.distinct
    listing = sources.entries(settings.source, settings.image_size)
    # A tar has no list of its files: it is read once.
    return listing.total if listing.total is not None else sum(1 for _ in listing), None, None


def facts(preview: Preview) -> list[str]:
    """Return the facts of a preview as lines of text."""
    if preview.files is None:
        content = "it would be downloaded; its images are counted then"
    elif preview.images is None:
        content = f"{count(preview.files, 'file')}, not decoded yet"
    else:
        content = f"{count(preview.images, 'image')}, {preview.distinct:,} of them distinct, in the image cache"
    left = "" if preview.memory_left_bytes is None else f" of {preview.memory_left_bytes / 1e6:,.0f} MB available"
    return [
        f"source: {content}",
        f"disk: {preview.disk_bytes / 1e6:,.0f} MB for checkpoints and images",
        f"memory: about {preview.memory_bytes / 1e6:,.0f} MB for a training step{left}",
        f"resumes: run {preview.resumes}" if preview.resumes else "resumes: none; a new run starts",
    ]


def settings_table(preview: Preview) -> Table:
    """Return the settings as a table, with their origins."""
    return Table(
        title="Settings",
        columns=(tables.column("setting", code=True), tables.column("value", code=True), tables.column("from")),
        rows=tuple(
            tables.row(name, str(setting["value"]) or NONE, setting["from"])
            for name, setting in preview.settings.items()
        ),
    )
