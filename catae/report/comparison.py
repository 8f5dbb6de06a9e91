"""Compare runs: the settings in which they differ, the duration of training, and the reconstruction scores."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.text import Text

from catae import run
from catae.data import sources
from catae.errors import UserError
from catae.report import figures, html, run_report, run_summary, tables
from catae.report.run_summary import RunSummary, ScoreSummary
from catae.report.tables import BEST, NONE, Cell, Column, Table
from catae.run import Run
from catae.settings import RESUME_SAFE
from catae.system.text import count, duration, printable
from catae.training import tensorboard

MAX_WIDTH = 16  # characters of a value in a terminal; a longer one is folded
LEGEND_SETTINGS = 2  # differing settings in the figure's legend; if there are more, only the table has them
MAX_CURVES = 10  # as many as there are distinct colours

Curve = tuple[str, dict[str, dict[int, float]]]  # the label of a run in the figure, and its scalars


@dataclass(frozen=True)
class RunComparison:
    """Runs, in the order of the arguments.

    Attributes:
        runs: those that can be read.
        differing: the hyperparameters that do not have the same value in all runs.
        comparable: whether the runs with scores have the same test images.
        notes: a sentence on each run that has no scores or cannot be read.
    """

    runs: tuple[RunSummary, ...]
    differing: tuple[str, ...]
    comparable: bool
    notes: tuple[str, ...]

    @property
    def scored(self) -> tuple[RunSummary, ...]:
        """The runs that have scores."""
        return tuple(summary for summary in self.runs if summary.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, without the names of test images, which are in each run's `split.json`."""
        runs = [summary.model_dump(mode="json", exclude={"test"}) for summary in self.runs]
        return {"runs": runs, "differing": self.differing, "comparable": self.comparable, "notes": self.notes}


def compare_runs(names: Sequence[str], output_dir: Path) -> RunComparison:
    """Compare the runs called `names`, as `run.find` takes them. A run that is named twice counts once.

    Raises:
        UserError: there is no such run, there are fewer than two, or none can be read.
    """
    found = {found.path: found for found in (run.find_run(name, output_dir, "RUN") for name in names)}
    if len(found) < 2:
        raise UserError(f"{', '.join(names)}: there is only one run to compare; name another")
    summaries: list[RunSummary] = []
    notes: list[str] = []
    for each in found.values():
        try:
            summaries.append(run_summary.summarize_run(each))
        except UserError as error:
            notes.append(f"Run {each.id} is left out: {error}.")
    if not summaries:
        raise UserError(f"cannot read any of these runs: {' '.join(notes)}")
    names_of_settings = {name: None for summary in summaries for name in summary.settings}
    decisive = [name for name in names_of_settings if name not in RESUME_SAFE or name == "source"]
    return RunComparison(
        runs=tuple(summaries),
        differing=tuple(name for name in decisive if len({repr(each.settings.get(name)) for each in summaries}) > 1),
        comparable=len({(each.data, frozenset(each.test)) for each in summaries if each.scores}) == 1,
        notes=(*notes, *(_no_scores(summary) for summary in summaries if not summary.scores)),
    )


def _no_scores(summary: RunSummary) -> str:
    """Return why a run has no scores, in a sentence."""
    why = f": {summary.error}" if summary.error else ""
    return f"Run {summary.id} is {summary.state} and has no scores{why}."


def headline(comparison: RunComparison) -> str:
    """Return which run has the lowest L1 error, or why the runs cannot be ranked, in a sentence."""
    if not comparison.scored:
        return "None of these runs has scores."
    if not comparison.comparable:
        return "The scores cannot be compared: the runs have different test images."
    if len(comparison.scored) == 1:
        return f"Only run {comparison.scored[0].id} has scores."
    first, second = sorted(comparison.scored, key=_l1)[:2]
    gap = run_report.difference(_l1(first), _l1(second))
    if gap == "level with":
        return f"In L1 error, the best two runs are level: {first.id} and {second.id}."
    return f"Run {first.id} has the lowest L1 error: {_l1(first):.4f}, {gap} the next run, {second.id}."


def comparison_table(comparison: RunComparison, links: Sequence[str | None] = ()) -> Table:
    """Return a row for each run. What is the same in all runs has no column, except times and scores.

    Args:
        comparison: the runs.
        links: addresses of the runs' reports; None for a run without one.
    """
    summaries = comparison.runs
    texts = [
        _column("State", [each.state for each in summaries]),
        *(_column(name, [_setting(each, name) for each in summaries]) for name in comparison.differing),
        _column("Processor", [each.machine.cpu for each in summaries]),
        _column("Precision used", [each.training.precision if each.training else NONE for each in summaries]),
    ]
    columns = [
        *(text for text in texts if len(set(text[1])) > 1),
        _column("Epochs", [_epochs(each) for each in summaries], numeric=True),
        _column("Training took", [_training_time(each) for each in summaries], numeric=True),
        _column("Test images", [f"{e.scores.pictures:,}" if e.scores else NONE for e in summaries], numeric=True),
        *_scores(comparison, "l1", "L1 in [-1, 1]", 4, lower_is_better=True),
        *_scores(comparison, "psnr", "PSNR, dB", 2, lower_is_better=False),
        *_scores(comparison, "ssim", "SSIM", 4, lower_is_better=False),
    ]
    runs = [Cell(each.id, link=link) for each, link in zip(summaries, links or [None] * len(summaries), strict=True)]
    rows = zip(runs, *(cells for _, cells in columns), strict=True)
    return Table("", (tables.column("Run"), *(column for column, _ in columns)), tuple(rows))


def _column(name: str, values: Sequence[str], numeric: bool = False) -> tuple[Column, list[Cell]]:
    return tables.column(name, numeric=numeric), [Cell(value) for value in values]


def _scores(
    comparison: RunComparison, key: str, name: str, decimals: int, lower_is_better: bool
) -> tuple[tuple[Column, list[Cell]], tuple[Column, list[Cell]]]:
    """Return the column of a score, and the column of its difference from PCA's."""
    scores = [each.scores for each in comparison.runs]
    values = [round(getattr(each.model, key), decimals) if each else None for each in scores]
    known = [value for value in values if value is not None]
    best = (min if lower_is_better else max)(known) if comparison.comparable and len(known) > 1 else None
    shown = [
        Cell(NONE) if value is None else Cell(f"{value:.{decimals}f}", best=best is not None and value == best)
        for value in values
    ]
    gaps = [NONE if each is None else _gap(each, key, decimals, relative=lower_is_better) for each in scores]
    short = name.split()[0].rstrip(",")
    return (tables.column(name, numeric=True), shown), _column(f"{short} vs. PCA", gaps, numeric=True)


def _gap(scores: ScoreSummary, key: str, decimals: int, relative: bool) -> str:
    """Return the difference of the model's score from PCA's: relative for errors, absolute for the others."""
    model, pca = getattr(scores.model, key), getattr(scores.pca, key)
    return run_report.difference(model, pca) if relative else f"{model - pca:+.{decimals}f}"


def _l1(summary: RunSummary) -> float:
    """Return the L1 error of a run; infinity if it has no scores."""
    return summary.scores.model.l1 if summary.scores else float("inf")


def _setting(summary: RunSummary, name: str) -> str:
    """Return the value of a setting; a run of an earlier version may not have it."""
    if name not in summary.settings:
        return NONE
    value = str(summary.settings[name])
    return printable(sources.label(value) if name == "source" else value) or "(empty)"


def _epochs(summary: RunSummary) -> str:
    return f"{summary.training.epochs}, best {summary.training.best_epoch}" if summary.training else NONE


def _training_time(summary: RunSummary) -> str:
    return duration(summary.training.seconds) if summary.training else NONE


def comparison_text(comparison: RunComparison, width: int) -> RenderableType:
    """Return the comparison for a terminal of `width` columns: a column for each run, or a row if only that fits.

    If neither fits, the columns are divided into several tables.
    """
    rows = comparison_table(comparison)
    columns = rows.transposed()
    runs = range(1, len(comparison.runs) + 1)
    shown = next((each for each in (columns, rows) if _fits(each, width)), None)
    parts = [shown] if shown else []
    if not parts:
        most = max((n for n in runs[:-1] if _fits(columns.select(runs[:n]), width)), default=1)
        split = np.array_split(runs, ceil(len(runs) / most))  # four runs as two and two, not as three and one
        parts = [columns.select(part.tolist()) for part in split]
    blocks: list[RenderableType] = [Text(printable(headline(comparison)), style="bold")]
    for part in parts:
        blocks += [Text(), tables.to_text(part, max_width=MAX_WIDTH)]
    legend = f"{BEST.strip()} marks the best. " if rows.has_best else ""
    blocks += [Text(), Text(f"{legend}PCA has as many components as the latent has dimensions.", style="dim")]
    return Group(*blocks, *(Text(printable(note)) for note in comparison.notes))


def _fits(table: Table, width: int) -> bool:
    return Console(width=10_000).measure(tables.to_text(table, max_width=MAX_WIDTH)).maximum <= width


def write_comparison_page(comparison: RunComparison, path: Path) -> None:
    """Write the comparison as one self-contained page, with the losses of all runs in one figure."""
    losses, missing = _losses(comparison)
    shortest = min(map(_l1, comparison.scored), default=0)
    html.write_page(
        path,
        "compare.html",
        headline=headline(comparison),
        comparison=comparison,
        table=comparison_table(comparison, [_link(each, path) for each in comparison.runs]).transposed(),
        bars=sorted(comparison.scored, key=_l1) if comparison.comparable and shortest else [],
        longest=max(map(_l1, comparison.scored), default=1),
        notes=[*comparison.notes, *missing],
        images=_figure(losses),
        version=version("catae"),
    )


def _link(summary: RunSummary, path: Path) -> str | None:
    """Return the address of the run's report relative to the page, if there is one."""
    report = Run(summary.folder).report
    return quote(os.path.relpath(report, path.absolute().parent)) if report.exists() else None


def _losses(comparison: RunComparison) -> tuple[list[Curve], list[str]]:
    """Return the curves of at most 10 runs, and a sentence on each run without one."""
    losses: list[Curve] = []
    missing: list[str] = []
    for summary in comparison.runs:
        differing = comparison.differing if len(comparison.differing) <= LEGEND_SETTINGS else ()
        name = ", ".join([summary.id, *(f"{name} {_setting(summary, name)}" for name in differing)])
        try:
            losses.append((name, tensorboard.read_scalars(Run(summary.folder).events)))
        except UserError as error:
            missing.append(f"Run {summary.id} has no curve: {error}.")
    if len(losses) > MAX_CURVES:
        missing.append(f"The figure shows only the first {MAX_CURVES} of {count(len(losses), 'run')}.")
    return losses[:MAX_CURVES], missing


def _figure(losses: Sequence[Curve]) -> dict[str, html.EmbeddedImage]:
    """Return the figure of the losses for the page, if there are any."""
    if not losses:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "losses.png"
        figures.losses(losses, path)
        return {path.name: html.embed_file(path)}
