"""Publish a run in Prefect's UI: the progress of training, a report with images, and a table of epochs.

The artifacts show files that are already written. An API that cannot be reached does not fail the run: what was not
published is logged once and recorded in `run.json` as `unpublished`.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.runtime import task_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from catae.data import sources
from catae.report import html, run_report, tables
from catae.run import Run
from catae.sweep import leaderboard
from catae.sweep.leaderboard import Leaderboard
from catae.sweep.state import Sweep
from catae.system import files
from catae.system.text import count, duration
from catae.training import tensorboard
from catae.training.loop import Outcome
from catae.training.metrics import Epoch, log, time_left

logger = logging.getLogger("catae.artifacts")

UNREACHABLE = (httpx.HTTPError, PrefectException)
MAX_REPORT = 500_000  # bytes: the UI is slow with 1 MB and hangs with 20 MB, and its list of artifacts loads all
INTERVAL = 2.0  # seconds between two updates of the progress
MAX_WIDTH = 1100  # pixels, about the width of the UI
QUALITIES = (80, 70, 60, 50, 40, 30, 20)  # WebP qualities of images; the best with which all fit is used


class Progress:
    """Publish the progress of training after each epoch.

    Training hardly waits for it: updates are at least 2 s apart. After a failed request, the next one waits ten times
    as long as the failed one took.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.artifact: UUID | None = None
        self.next_update, self.warned = 0.0, False

    def __call__(self, epoch: Epoch, max_epochs: int) -> None:
        """Log the epoch, and publish it unless the last update is too recent."""
        log(epoch, max_epochs)
        if time.monotonic() >= self.next_update:
            self._publish(
                round(100 * epoch.number / max_epochs, 1),
                f"Epoch {epoch.number} of at most {max_epochs}; at most {time_left(epoch, max_epochs)} left, less if "
                f"training stops early. Test loss {epoch.test_loss:.4f}.",
            )

    def end(self, outcome: Outcome) -> None:
        """Publish that training has ended, and why."""
        self._publish(100.0, f"Ended after {count(outcome.epochs, 'epoch')}: {outcome.stop_reason}.")

    def _publish(self, percent: float, description: str) -> None:
        if task_run.id is None:  # called as a function, outside of a task run
            return
        start = time.monotonic()
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                if self.artifact is None:
                    created = create_progress_artifact(percent, "catae-progress", description)
                    self.artifact = created if isinstance(created, UUID) else None
                else:
                    update_progress_artifact(self.artifact, percent, description)
            self.next_update = start + INTERVAL
        except UNREACHABLE as error:
            if not self.warned:
                _record_unpublished(self.run, ["the progress of training"], error)
            self.warned, self.next_update = True, time.monotonic() + 10 * (time.monotonic() - start)


def publish_run(run: Run) -> None:
    """Publish a finished run: its report and the table of its epochs."""
    unpublished = ["the report", "the table of epochs"]
    try:
        create_markdown_artifact(report_markdown(run), "catae-report", f"Run {run.id}, in {run.path.resolve()}")
        unpublished.pop(0)
        create_table_artifact(epoch_rows(run), "catae-epochs", "Losses (L1 of pixels in [-1, 1]) and speed by epoch")
        unpublished.pop(0)
    except UNREACHABLE as error:
        _record_unpublished(run, unpublished, error)


def publish_image(path: Path, key: str, title: str) -> None:
    """Publish one image with its path."""
    (image,) = _fit_images([path], MAX_REPORT - 1000)
    try:
        create_markdown_artifact(f"# {tables.plain(title)}\n\n{image}\n\n`{path.resolve()}`\n", key, title)
    except UNREACHABLE as error:
        logger.warning("%s is written, but could not be published in Prefect's UI: %s", path, _reason(error))


def publish_leaderboard(sweep: Sweep, board: Leaderboard) -> None:
    """Publish the leaderboard of a sweep."""
    try:
        create_markdown_artifact(leaderboard_markdown(sweep, board), "catae-leaderboard", f"Sweep {sweep.id}")
    except UNREACHABLE as error:
        logger.warning("%s is written, but could not be published in Prefect's UI: %s", sweep.page, _reason(error))


def leaderboard_markdown(sweep: Sweep, board: Leaderboard) -> str:
    """Return the leaderboard of a sweep in Markdown."""
    content = [
        f"# Sweep {sweep.id}",
        f"**{tables.plain(leaderboard.headline(board))}**",
        tables.to_markdown(leaderboard.table(board)),
        *(tables.plain(note) for note in board.notes),
        tables.to_markdown(leaderboard.runs_table(board)),
        f"In `{sweep.path.resolve()}`.",
    ]
    return "\n\n".join(content)


def epoch_rows(run: Run) -> list[dict[str, Any]]:
    """Return a row for each epoch, from the event files."""
    scalars = tensorboard.read_scalars(run.events)
    best = run.read()["training"]["best_epoch"]
    names = {"loss/train": "train", "loss/test": "test", "loss/validation": "validation"}
    return [
        {"epoch": epoch, "kept": "*" if epoch == best else ""}
        | {name: f"{scalars[tag][epoch]:.4f}" for tag, name in names.items() if tag in scalars}
        | {
            "learning rate": f"{scalars['learning_rate'][epoch]:.3g}",
            "images/s": f"{scalars['images_per_second'][epoch]:,.0f}",
            "seconds": f"{scalars['seconds'][epoch]:.1f}",
        }
        for epoch in scalars["loss/train"]
    ]


def report_markdown(run: Run) -> str:
    """Return the run in Markdown, with its images embedded, in less than `MAX_REPORT` bytes."""
    content = _content(run)
    text_size = sum(len(part.encode()) + 100 for part in content if isinstance(part, str))
    images = iter(_fit_images([part for part in content if isinstance(part, Path)], MAX_REPORT - text_size))
    return "\n\n".join(part if isinstance(part, str) else next(images) for part in content)


def _content(run: Run) -> list[str | Path]:
    """Return the paragraphs and the images of a run's report."""
    manifest, settings = run.read(), files.read_json(run.settings)
    scores, training, parts, data = (manifest[name] for name in ("scores", "training", "split", "data"))
    latent, seed = settings["latent_dim"]["value"], settings["seed"]["value"]
    warning = run_report.leak_warning(parts)
    return [
        f"# {tables.plain(sources.label(data['source']))} · latent size {latent} · seed {seed}",
        f"**{run_report.headline(scores)}** {run_report.verdict(scores)} {run_report.other_scores(scores)}",
        *([f"**Warning: {warning}**"] if warning else []),
        tables.to_markdown(run_report.score_table(scores)),
        f"Training ended after {count(training['epochs'], 'epoch')} of {count(parts['train'], 'image')}: "
        f"{training['stop_reason']}. The weights are those of epoch {training['best_epoch']}. Training took "
        f"{duration(training['seconds'])}.",
        "## Reconstructions",
        f"Upper rows: test images. Lower rows: their reconstructions from {count(latent, 'latent dimension')}.",
        run.reconstructions,
        "## Random samples",
        "Samples of N(0, I), decoded by the exported model: after whitening, the latents of the train images have mean "
        "0 and covariance I.",
        run.generated,
        "The same samples before whitening. A plain autoencoder does not constrain its latents, so samples of N(0, I) "
        "fall outside them.",
        run.generated_unwhitened,
        "## Interpolation",
        f"Linear, from {' to '.join(map(tables.plain, manifest['interpolation']))} and back.",
        run.animation,
        run.interpolation,
        "## Curves",
        run.curves,
        "## Files",
        f"In `{run.path.resolve()}`. The images there are lossless, those above are compressed.",
        tables.to_markdown(run_report.file_table(run)),
    ]


def _fit_images(paths: Sequence[Path], room: int) -> list[str]:
    """Return images for Markdown in at most `room` bytes, in the best quality that fits; text for one too large.

    WebP needs less than half the bytes of palette PNGs and GIFs of the same quality, and keeps all frames of the
    animation.
    """

    @cache
    def embedded(quality: int) -> list[str]:
        return [
            f"![{path.stem}]({html.embed_file(path, quality=quality, max_width=MAX_WIDTH).address})" for path in paths
        ]

    # One quality takes a second for all images; bisection tries three of the seven.
    best = bisect_left(
        QUALITIES, True, hi=len(QUALITIES) - 1, key=lambda quality: sum(map(len, embedded(quality))) <= room
    )
    fitting = []
    for image, path in zip(embedded(QUALITIES[best]), paths, strict=True):
        fits = len(image) <= room
        fitting.append(image if fits else f"({path.name} is too large to be shown here.)")
        room -= len(image) if fits else 0
    return fitting


def _record_unpublished(run: Run, what: list[str], error: Exception) -> None:
    logger.warning(
        "could not publish %s in Prefect's UI: %s; everything is in %s", " and ".join(what), _reason(error), run.path
    )
    run.record(unpublished=[*run.read().get("unpublished", []), *what])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
