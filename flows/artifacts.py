"""What Prefect's UI shows of a run: how far training is, one report with pictures in it, and a table of epochs.

It shows what has been written to files before. An API that can't be reached is no reason to fail: what wasn't shown
is said once, and stands in `run.json` as `unpublished`.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
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
from catae.report.tables import Cell, Table
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
LIMIT = 500_000  # bytes of a report: with 1 MB the UI is slow, with 20 MB it hangs, and its list of artifacts has all
PACE = 2.0  # seconds between two looks at training
WIDEST = 1100  # pixels, about what the UI shows
QUALITIES = (80, 70, 60, 50, 40, 30, 20)  # of its pictures; the best with which they fit is taken


class Progress:
    """Shows in the UI how far training is; called after each epoch.

    Training hardly waits for it: short epochs are shown every 2 s, and an API that is gone is asked once, and not again
    before ten times as long as that took.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.artifact: UUID | None = None
        self.not_before, self.told = 0.0, False

    def __call__(self, epoch: Epoch, max_epochs: int) -> None:
        """Logs the epoch, and shows it, unless the one before was shown just now."""
        log(epoch, max_epochs)
        if time.monotonic() >= self.not_before:
            self._show(
                round(100 * epoch.number / max_epochs, 1),
                f"Epoch {epoch.number} of {max_epochs} at most; {time_left(epoch, max_epochs)} left at the latest, "
                f"since training ends as soon as the loss hardly decreases. Test loss {epoch.test_loss:.4f}.",
            )

    def end(self, outcome: Outcome) -> None:
        """Shows that training has ended, and why."""
        self._show(100.0, f"Ended after {count(outcome.epochs, 'epoch')}: {outcome.stop_reason}.")

    def _show(self, percent: float, description: str) -> None:
        if task_run.id is None:  # a task that is called as a function has no UI
            return
        start = time.monotonic()
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                if self.artifact is None:
                    created = create_progress_artifact(percent, "catae-progress", description)
                    self.artifact = created if isinstance(created, UUID) else None
                else:
                    update_progress_artifact(self.artifact, percent, description)
            self.not_before = start + PACE
        except UNREACHABLE as error:
            if not self.told:
                _tell(self.run, ["how far training is"], error)
            self.told, self.not_before = True, time.monotonic() + 10 * (time.monotonic() - start)


def publish(run: Run) -> None:
    """Shows a finished run in the UI: its report, and the table of its epochs."""
    left = ["the report", "the table of epochs"]
    try:
        create_markdown_artifact(write_report(run), "catae-report", f"Run {run.id}, in {run.path.resolve()}")
        left.pop(0)
        create_table_artifact(epochs(run), "catae-epochs", "Each epoch's losses, L1 in [-1, 1], and its speed")
        left.pop(0)
    except UNREACHABLE as error:
        _tell(run, left, error)


def publish_picture(path: Path, key: str, title: str) -> None:
    """Shows one picture in the UI, with where it is."""
    (shown,) = _fitting([path], LIMIT - 1000)
    try:
        create_markdown_artifact(f"# {tables.plain(title)}\n\n{shown}\n\n`{path.resolve()}`\n", key, title)
    except UNREACHABLE as error:
        logger.warning("%s is written, but the UI doesn't show it: %s", path, _reason(error))


def publish_leaderboard(sweep: Sweep, board: Leaderboard) -> None:
    """Shows a sweep's leaderboard in the UI."""
    try:
        create_markdown_artifact(write_leaderboard(sweep, board), "catae-leaderboard", f"Sweep {sweep.id}")
    except UNREACHABLE as error:
        logger.warning("%s is written, but the UI doesn't show it: %s", sweep.page, _reason(error))


def write_leaderboard(sweep: Sweep, board: Leaderboard) -> str:
    """A sweep's leaderboard in Markdown."""
    content = [
        f"# Sweep {sweep.id}",
        f"**{tables.plain(leaderboard.headline(board))}**",
        tables.to_markdown(leaderboard.table(board)),
        *(tables.plain(note) for note in board.notes),
        tables.to_markdown(leaderboard.runs_table(board)),
        f"In `{sweep.path.resolve()}`.",
    ]
    return "\n\n".join(content)


def epochs(run: Run) -> list[dict[str, Any]]:
    """The table of epochs, from the event files."""
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


def write_report(run: Run) -> str:
    """The run in Markdown, with its pictures in it, in less than `LIMIT` bytes."""
    content = _content(run)
    words = sum(len(part.encode()) + 100 for part in content if isinstance(part, str))
    pictures = [part for part in content if isinstance(part, Path)]
    shown = iter(_fitting(pictures, LIMIT - words))
    return "\n\n".join(part if isinstance(part, str) else next(shown) for part in content)


def _content(run: Run) -> list[str | Path]:
    """The paragraphs and the pictures of a run."""
    manifest, settings = run.read(), files.read_json(run.settings)
    scores, training, parts, data = (manifest[name] for name in ("scores", "training", "split", "data"))
    latent, seed = settings["latent_dim"]["value"], settings["seed"]["value"]
    warning = run_report.warning(parts)
    left = {run.report.name: "the whole run on one page"} | run_report.LEFT
    there = {run.path / name: what for name, what in left.items() if (run.path / name).exists()}
    return [
        f"# {tables.plain(sources.label(data['source']))} · {latent} · seed {seed}",
        f"**{run_report.headline(scores)}** {run_report.verdict(scores)} {run_report.other_scores(scores)}",
        *([f"**Warning: {warning}**"] if warning else []),
        tables.to_markdown(_scores(scores)),
        f"Training ended after {count(training['epochs'], 'epoch')} of {count(parts['train'], 'picture')}: "
        f"{training['stop_reason']}. The weights are those of epoch {training['best_epoch']}. All of it took "
        f"{duration(training['seconds'])}.",
        "## Restorations",
        f"Upper rows: test pictures. Lower rows: what the model makes of them from {count(latent, 'number')} each.",
        run.reconstructions,
        "## Generation",
        "Random latents of N(0, I), decoded by the model as it is handed out: in its basis the latents of the train "
        "pictures have mean 0 and covariance I.",
        run.generated,
        "What the same noise decoded to before, as training left the model: nothing keeps its latents like N(0, I).",
        run.generated_unwhitened,
        "## Interpolation",
        f"From {' to '.join(map(tables.plain, manifest['interpolation']))} and back, straight through the latents.",
        run.animation,
        run.interpolation,
        "## Curves",
        run.curves,
        "## Files",
        f"In `{run.path.resolve()}`. The pictures there are exact, those above are compressed.",
        tables.to_markdown(_files(there)),
    ]


def _scores(scores: Mapping[str, Any]) -> Table:
    names = [
        f"{name} {'↓' if less else '↑'}".replace("\N{NO-BREAK SPACE}", " ")
        for _, name, _, less, _ in run_report.COLUMNS
    ]
    return Table(
        title="",
        columns=(tables.column("Restored by"), *(tables.column(name, numeric=True) for name in names)),
        rows=tuple(tables.row(row.name, *map(Cell, row.cells, row.best)) for row in run_report.score_rows(scores)),
        note="↓ less is better, ↑ more is better.",
    )


def _files(there: Mapping[Path, str]) -> Table:
    return Table(
        title="",
        columns=(
            tables.column("file", code=True),
            tables.column("what it holds"),
            tables.column("MB", numeric=True),
        ),
        rows=tuple(tables.row(path.name, what, f"{_size(path) / 1e6:.2f}") for path, what in there.items()),
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _fitting(pictures: Sequence[Path], room: int) -> list[str]:
    """Pictures for Markdown in at most `room` bytes, as good as they can be; words for one that doesn't fit at all.

    As WebP they have less than half the bytes of palette PNGs and GIFs that look as good, and the animation keeps all
    of its frames.
    """

    @cache
    def shown(quality: int) -> list[str]:
        return [f"![{path.stem}]({html.embed(path, lossy=quality, widest=WIDEST).address})" for path in pictures]

    # All of them in one quality take a second: three are tried, and not up to seven.
    best = bisect_left(
        QUALITIES, True, hi=len(QUALITIES) - 1, key=lambda quality: sum(map(len, shown(quality))) <= room
    )
    fitting = []
    for picture, path in zip(shown(QUALITIES[best]), pictures, strict=True):
        fits = len(picture) <= room
        fitting.append(picture if fits else f"({path.name} is too large to be shown here.)")
        room -= len(picture) if fits else 0
    return fitting


def _tell(run: Run, what: list[str], error: Exception) -> None:
    logger.warning("the UI doesn't show %s: %s; everything is in %s", " and ".join(what), _reason(error), run.path)
    run.record(unpublished=[*run.read().get("unpublished", []), *what])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
