"""Runs beside each other: which settings they don't share, how long they took, and how well they restore."""

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
from catae.report.run_summary import Scores, Summary
from catae.report.tables import BEST, NONE, Cell, Column, Table
from catae.run import Run
from catae.settings import RESUME_SAFE
from catae.system.text import count, duration, printable
from catae.training import tensorboard

VALUE = 16  # characters of a value in a terminal; a longer one is folded
SHOWN = 2  # settings that differ beside a run's id, in the figure; more of them stand in the table only
MOST_CURVES = 10  # as many as there are colours to tell apart

Curve = tuple[str, dict[str, dict[int, float]]]  # what a run is called in the figure, and its scalars


@dataclass(frozen=True)
class Comparison:
    """Runs, in the order in which they were named.

    Attributes:
        entries: those that can be read.
        differing: the settings that decide what is learned, and don't have the same value in all of them.
        comparable: whether the runs with scores have the same test pictures.
        notes: a sentence on each run that has no scores, or can't be read.
    """

    entries: tuple[Summary, ...]
    differing: tuple[str, ...]
    comparable: bool
    notes: tuple[str, ...]

    @property
    def scored(self) -> tuple[Summary, ...]:
        """The runs that have scores."""
        return tuple(entry for entry in self.entries if entry.scores)

    def to_dict(self) -> dict[str, Any]:
        """It as JSON has it; the names of the test pictures are in the runs' `split.json`."""
        runs = [entry.model_dump(mode="json", exclude={"test"}) for entry in self.entries]
        return {"runs": runs, "differing": self.differing, "comparable": self.comparable, "notes": self.notes}


def compare(names: Sequence[str], output_dir: Path) -> Comparison:
    """The runs called `names`, as `run.find` takes them, beside each other; a run that is named twice counts once.

    Raises:
        UserError: there is no such run, they are fewer than two, or none can be read.
    """
    found = {found.path: found for found in (run.find_run(name, output_dir, "RUN") for name in names)}
    if len(found) < 2:
        raise UserError(f"{', '.join(names)}: one run has nothing to be compared with; name another")
    entries: list[Summary] = []
    notes: list[str] = []
    for each in found.values():
        try:
            entries.append(run_summary.read(each))
        except UserError as error:
            notes.append(f"Run {each.id} is left out: {error}.")
    if not entries:
        raise UserError(f"none of these runs can be read: {' '.join(notes)}")
    everything = {name: None for entry in entries for name in entry.settings}
    deciding = [name for name in everything if name not in RESUME_SAFE or name == "source"]
    return Comparison(
        entries=tuple(entries),
        differing=tuple(name for name in deciding if len({repr(entry.settings.get(name)) for entry in entries}) > 1),
        comparable=len({(entry.data, frozenset(entry.test)) for entry in entries if entry.scores}) == 1,
        notes=(*notes, *(_unscored(entry) for entry in entries if not entry.scores)),
    )


def _unscored(entry: Summary) -> str:
    """Why a run has no scores, in a sentence."""
    why = f": {entry.error}" if entry.error else ""
    return f"Run {entry.id} is {entry.state} and has no scores{why}."


def headline(comparison: Comparison) -> str:
    """Which run restores best, or why that can't be said, in a sentence."""
    if not comparison.scored:
        return "None of these runs has scores."
    if not comparison.comparable:
        return "The scores can't be compared: the runs have different test pictures."
    if len(comparison.scored) == 1:
        return f"Only run {comparison.scored[0].id} has scores."
    first, second = sorted(comparison.scored, key=_l1)[:2]
    gap = run_report.difference(_l1(first), _l1(second))
    if gap == "level with":
        return f"In L1 error the best two, {first.id} and {second.id}, are level."
    return f"Run {first.id} has the lowest L1 error: {_l1(first):.4f}, {gap} that of the next, {second.id}."


def table(comparison: Comparison, links: Sequence[str | None] = ()) -> Table:
    """Return the comparison with a row for each run, and no column for what is the same in all, but times and scores.

    Args:
        comparison: the runs.
        links: to the report of each run, if it has one.
    """
    entries = comparison.entries
    texts = [
        _column("State", [entry.state for entry in entries]),
        *(_column(name, [_setting(entry, name) for entry in entries]) for name in comparison.differing),
        _column("Processor", [entry.machine.cpu for entry in entries]),
        _column("Precision in use", [entry.training.precision if entry.training else NONE for entry in entries]),
    ]
    columns = [
        *(text for text in texts if len(set(text[1])) > 1),
        _column("Epochs", [_epochs(entry) for entry in entries], numeric=True),
        _column("Training took", [_took(entry) for entry in entries], numeric=True),
        _column("Test pictures", [f"{e.scores.pictures:,}" if e.scores else NONE for e in entries], numeric=True),
        *_scores(comparison, "l1", "L1 in [-1, 1]", 4, less_is_better=True),
        *_scores(comparison, "psnr", "PSNR, dB", 2, less_is_better=False),
        *_scores(comparison, "ssim", "SSIM", 4, less_is_better=False),
    ]
    runs = [Cell(each.id, link=link) for each, link in zip(entries, links or [None] * len(entries), strict=True)]
    rows = zip(runs, *(cells for _, cells in columns), strict=True)
    return Table("", (tables.column("Run"), *(column for column, _ in columns)), tuple(rows))


def _column(name: str, values: Sequence[str], numeric: bool = False) -> tuple[Column, list[Cell]]:
    return tables.column(name, numeric=numeric), [Cell(value) for value in values]


def _scores(
    comparison: Comparison, key: str, name: str, decimals: int, less_is_better: bool
) -> tuple[tuple[Column, list[Cell]], tuple[Column, list[Cell]]]:
    """A score of the models, and how far it is from PCA's."""
    own = [round(getattr(entry.scores.model, key), decimals) if entry.scores else None for entry in comparison.entries]
    known = [value for value in own if value is not None]
    best = (min if less_is_better else max)(known) if comparison.comparable and len(known) > 1 else None
    shown = [
        Cell(NONE) if value is None else Cell(f"{value:.{decimals}f}", best=best is not None and value == best)
        for value in own
    ]
    gaps = [
        NONE if entry.scores is None else _gap(entry.scores, key, decimals, relative=less_is_better)
        for entry in comparison.entries
    ]
    short = name.split()[0].rstrip(",")
    return (tables.column(name, numeric=True), shown), _column(f"{short} against PCA", gaps, numeric=True)


def _gap(scores: Scores, key: str, decimals: int, relative: bool) -> str:
    """How far the model's score is from PCA's: errors as a share, the others as a difference."""
    model, pca = getattr(scores.model, key), getattr(scores.pca, key)
    return run_report.difference(model, pca) if relative else f"{model - pca:+.{decimals}f}"


def _l1(entry: Summary) -> float:
    """The model's L1 error of a run that has scores."""
    return entry.scores.model.l1 if entry.scores else float("inf")


def _setting(entry: Summary, name: str) -> str:
    """A setting's value; a run of an earlier version may have none."""
    if name not in entry.settings:
        return NONE
    value = str(entry.settings[name])
    return printable(sources.label(value) if name == "source" else value) or "(empty)"


def _epochs(entry: Summary) -> str:
    return f"{entry.training.epochs}, best {entry.training.best_epoch}" if entry.training else NONE


def _took(entry: Summary) -> str:
    return duration(entry.training.seconds) if entry.training else NONE


def text(comparison: Comparison, width: int) -> RenderableType:
    """The comparison for a terminal of so many columns: a column for each run, or a row where that fits better.

    Where neither fits, the columns are in several tables.
    """
    rows = table(comparison)
    columns = rows.transposed()
    runs = range(1, len(comparison.entries) + 1)
    shown = next((each for each in (columns, rows) if _fits(each, width)), None)
    parts = [shown] if shown else []
    if not parts:
        most = max((n for n in runs[:-1] if _fits(columns.select(runs[:n]), width)), default=1)
        split = np.array_split(runs, ceil(len(runs) / most))  # four runs as two and two, and not as three and one
        parts = [columns.select(part.tolist()) for part in split]
    blocks: list[RenderableType] = [Text(printable(headline(comparison)), style="bold")]
    for part in parts:
        blocks += [Text(), tables.to_text(part, max_width=VALUE)]
    starred = f"{BEST.strip()} the best. " if rows.has_best else ""
    blocks += [Text(), Text(f"{starred}PCA has as many components as the run's code has numbers.", style="dim")]
    return Group(*blocks, *(Text(printable(note)) for note in comparison.notes))


def _fits(table: Table, width: int) -> bool:
    return Console(width=10_000).measure(tables.to_text(table, max_width=VALUE)).maximum <= width


def write_html(comparison: Comparison, path: Path) -> None:
    """Writes the comparison as one self-contained page, with the losses of all runs in one figure."""
    losses, missing = _losses(comparison)
    shortest = min(map(_l1, comparison.scored), default=0)
    html.write(
        path,
        "compare.html",
        headline=headline(comparison),
        comparison=comparison,
        table=table(comparison, [_link(entry, path) for entry in comparison.entries]).transposed(),
        bars=sorted(comparison.scored, key=_l1) if comparison.comparable and shortest else [],
        longest=max(map(_l1, comparison.scored), default=1),
        notes=[*comparison.notes, *missing],
        pictures=_figure(losses),
        version=version("catae"),
    )


def _link(entry: Summary, path: Path) -> str | None:
    """Where the run's report is, from the page's place, if there is one."""
    there = Run(entry.folder).report
    return quote(os.path.relpath(there, path.absolute().parent)) if there.exists() else None


def _losses(comparison: Comparison) -> tuple[list[Curve], list[str]]:
    """The curves of the runs that have them, at most 10; and a sentence on each of the others."""
    losses: list[Curve] = []
    missing: list[str] = []
    for entry in comparison.entries:
        differing = comparison.differing if len(comparison.differing) <= SHOWN else ()
        name = ", ".join([entry.id, *(f"{name} {_setting(entry, name)}" for name in differing)])
        try:
            losses.append((name, tensorboard.read_scalars(Run(entry.folder).events)))
        except UserError as error:
            missing.append(f"Run {entry.id} has no curve: {error}.")
    if len(losses) > MOST_CURVES:
        missing.append(f"The figure has the first {MOST_CURVES} of {count(len(losses), 'run')} only.")
    return losses[:MOST_CURVES], missing


def _figure(losses: Sequence[Curve]) -> dict[str, html.Picture]:
    """The figure of the losses for the page, if there are any."""
    if not losses:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "losses.png"
        figures.losses(losses, path)
        return {path.name: html.embed(path)}
