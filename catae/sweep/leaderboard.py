"""Rank the runs of a sweep. Runs that differ in the seed only form one entry, with mean scores.

Runs with the same seed have the same test images; another seed selects others, which may be harder. Entries are
therefore compared over the same seeds, and one that lacks a seed ranks after those that have all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import mean, stdev
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from catae import run
from catae.report import html, run_report, run_summary, tables
from catae.report.run_summary import RunSummary, ScoreSummary, TrainingSummary
from catae.report.tables import NONE, Cell, Table
from catae.sweep.state import Sweep, Trial
from catae.system import files
from catae.system.text import count, duration, printable


@dataclass(frozen=True)
class Mean:
    """The mean of a score over seeds, and its standard deviation, if there are at least two."""

    value: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Return the mean of at least one value."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def text(self, decimals: int) -> str:
        """Return the mean with its deviation, like '0.150 ± 0.071'."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.{decimals}f}"
        return f"{self.value:.{decimals}f}{spread}"


@dataclass(frozen=True)
class EntryScores:
    """The scores of an entry, averaged over its runs.

    Attributes:
        runs: number of runs with scores.
        monitored_l1: `l1`, or the L1 error on validation images at the best epoch.
        l1, psnr, ssim: on each run's test images; L1 of pixels in [-1, 1].
        pca_l1: the L1 error of PCA with as many components as the latent has channels, on the same images.
        epochs, seconds: of training.
    """

    runs: int
    monitored_l1: Mean
    l1: Mean
    psnr: Mean
    ssim: Mean
    pca_l1: Mean
    epochs: float
    seconds: float


@dataclass(frozen=True)
class Entry:
    """The trials with the same settings, one for each seed. `settings` has those in which the entries differ."""

    settings: dict[str, Any]
    trials: tuple[Trial, ...]
    scores: EntryScores | None

    @property
    def name(self) -> str:
        """Return the settings in words."""
        return named(self.settings) or "these settings"


@dataclass(frozen=True)
class Leaderboard:
    """A ranked sweep, finished or not.

    Attributes:
        id: of the sweep.
        entries: the best first, by the monitored loss; those that lack seeds come after the others.
        over: the settings in which the entries differ.
        seeds: number of trials of an entry.
        monitor: 'test' or 'validation', the images whose loss ranks the entries.
        images: number of test images of a run.
        comparable: whether the runs of each seed have the same test images.
        notes: a sentence for each failed run.
    """

    id: str
    entries: tuple[Entry, ...]
    over: tuple[str, ...]
    seeds: int
    monitor: str
    images: int
    comparable: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the leaderboard as JSON values."""
        return {"headline": headline(self), **asdict(self)}


def named(values: dict[str, Any]) -> str:
    """Return settings in words, like 'latent_dim 32, seed 1'."""
    return ", ".join(f"{name} {cell(value)}" for name, value in values.items())


def cell(value: Any) -> str:
    """Return a setting's value as text, with four digits at most: a search draws numbers with many."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rank_sweep(sweep: Sweep) -> Leaderboard:
    """Return the trials of a sweep, ranked.

    Raises:
        UserError: a run's files are missing or damaged.
    """
    trials = sweep.trials()
    runs = {
        trial.number: run_summary.summarize_run(found)
        for trial in trials
        if trial.state == run.FINISHED and (found := sweep.run_of(trial.number))
    }
    over = tuple(name for name in trials[0].values if name != "seed") if trials else ()
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(repr([trial.values[name] for name in over]), []).append(trial)
    entries = [
        Entry({name: group[0].values[name] for name in over}, tuple(group), _mean_scores(group, runs))
        for group in groups.values()
    ]
    return Leaderboard(
        id=sweep.id,
        entries=tuple(sorted(entries, key=_order)),
        over=over,
        seeds=max((len(entry.trials) for entry in entries), default=0),
        monitor=next((each.training.monitor for each in runs.values() if each.training), "test"),
        images=next((each.scores.pictures for each in runs.values() if each.scores), 0),
        comparable=_comparable(trials, runs),
        notes=tuple(_note(trial) for trial in trials if trial.state == "failed"),
    )


def _mean_scores(trials: Sequence[Trial], runs: dict[int, RunSummary]) -> EntryScores | None:
    """Return the mean scores of these trials; None if none has scores."""
    finished = [each for trial in trials if (each := runs.get(trial.number))]
    both = [(each.scores, each.training) for each in finished if each.scores and each.training]
    if not both:
        return None
    scores, trainings = zip(*both, strict=True)
    return EntryScores(
        runs=len(scores),
        monitored_l1=Mean.of([_monitored_l1(score, training) for score, training in both]),
        l1=Mean.of([score.model.l1 for score in scores]),
        psnr=Mean.of([score.model.psnr for score in scores]),
        ssim=Mean.of([score.model.ssim for score in scores]),
        pca_l1=Mean.of([score.pca.l1 for score in scores]),
        epochs=mean(training.epochs for training in trainings),
        seconds=mean(training.seconds for training in trainings),
    )


def _monitored_l1(scores: ScoreSummary, training: TrainingSummary) -> float:
    """Return the L1 error that ranks a run. On test images it is the float32 score."""
    return scores.model.l1 if training.monitor == "test" else training.best_loss


def _order(entry: Entry) -> tuple[int, float]:
    """Return the sort key: most runs first, then the lowest loss."""
    return (-entry.scores.runs, entry.scores.monitored_l1.value) if entry.scores else (0, 0)


def _comparable(trials: Sequence[Trial], runs: dict[int, RunSummary]) -> bool:
    """Return whether all scored runs of each seed have the same test images."""
    tested: dict[Any, set[Any]] = {}
    for trial in trials:
        if each := runs.get(trial.number):
            tested.setdefault(trial.values.get("seed"), set()).add((each.data, frozenset(each.test)))
    return all(len(sets) == 1 for sets in tested.values())


def _note(trial: Trial) -> str:
    who = f"Run {trial.run}" if trial.run else f"Trial {trial.number}"
    return f"{who} ({named(trial.values)}) failed: {trial.error}."


def headline(board: Leaderboard) -> str:
    """Return a sentence: which settings reconstruct best, and by how much."""
    scored = [(entry, entry.scores) for entry in board.entries if entry.scores]
    if not scored:
        return "No run has scores yet."
    if not board.comparable:
        return "The entries cannot be ranked: their runs have different test images."
    best, scores = scored[0]
    seeds = f", the mean of {count(scores.runs, 'seed')}" if scores.runs > 1 else ""
    start = f"{best.name}: the lowest L1 error on {board.monitor} images, {scores.monitored_l1.text(4)}{seeds}"
    if len(scored) == 1:
        return f"{start}."
    second, next_scores = scored[1]
    if next_scores.runs < scores.runs:
        return f"{start}; no other entry has as many runs."
    gap = run_report.difference(scores.monitored_l1.value, next_scores.monitored_l1.value)
    return f"{start}; {gap} that of the next, {second.name}."


def table(board: Leaderboard) -> Table:
    """Return the leaderboard as a table, a row for each entry."""
    validation = [] if board.monitor == "test" else ["Validation L1"]
    names = ["#", *board.over, *validation, "Test L1", "vs. PCA", "PSNR, dB", "SSIM", "Epochs", "Time"]
    return Table(
        title="",
        columns=(*(tables.column(name, numeric=True) for name in names), tables.column("Runs")),
        rows=tuple(
            tables.row(
                str(place) if board.comparable and entry.scores else NONE,
                *(cell(entry.settings[name]) for name in board.over),
                *_scores(board, entry.scores, len(validation) + 6),
                _runs(entry),
            )
            for place, entry in enumerate(board.entries, 1)
        ),
        note=explanation(board),
    )


def runs_table(board: Leaderboard) -> Table:
    """Return the runs of all entries as a table, with links from the sweep's folder."""
    return Table(
        title="Runs",
        columns=(tables.column("Run"), tables.column("Settings"), tables.column("State")),
        rows=tuple(
            tables.row(
                Cell(trial.run, link=f"runs/{trial.number}/") if trial.run else NONE,
                named(trial.values),
                f"{trial.state}: {trial.error}" if trial.error else trial.state,
            )
            for entry in board.entries
            for trial in entry.trials
        ),
    )


def _scores(board: Leaderboard, scores: EntryScores | None, columns: int) -> list[str]:
    if scores is None:
        return [NONE] * columns
    return [
        *([] if board.monitor == "test" else [scores.monitored_l1.text(4)]),
        scores.l1.text(4),
        run_report.difference(scores.l1.value, scores.pca_l1.value),
        f"{scores.psnr.value:.2f}",
        f"{scores.ssim.value:.4f}",
        f"{scores.epochs:.0f}",
        duration(scores.seconds),
    ]


def _runs(entry: Entry) -> str:
    """Return how many of the entry's runs are finished, or the state of the only one."""
    states = [trial.state for trial in entry.trials]
    if set(states) == {run.FINISHED}:
        return str(len(states))
    return states[0] if len(states) == 1 else f"{states.count(run.FINISHED)} of {len(states)}"


def explanation(board: Leaderboard) -> str:
    """Return what the numbers of the table are."""
    means = f"Means over {count(board.seeds, 'seed')}, L1 ± standard deviation. " if board.seeds > 1 else ""
    return (
        f"{means}Scores on {count(board.images, 'test image')} of each run; L1 of pixels in [-1, 1]. Ranked by the L1 "
        f"error on {board.monitor} images. PCA has as many components as the latent has channels."
    )


def text(board: Leaderboard) -> RenderableType:
    """Return the leaderboard for a terminal."""
    ranked = table(board)
    first = [0] if ranked.rows and ranked.rows[0][0].text == "1" else []
    return Group(
        Text(printable(headline(board)), style="bold"),
        Text(),
        tables.to_text(ranked, dense=True, bold=first),
        Text(),
        Text(ranked.note, style="dim"),
        *(Text(printable(note)) for note in board.notes),
    )


def write_leaderboard(sweep: Sweep) -> Leaderboard:
    """Write the leaderboard into the sweep's folder, as JSON and as a page, and return it."""
    board = rank_sweep(sweep)
    files.write_json(sweep.board, board.to_dict())
    html.write_page(
        sweep.page,
        "leaderboard.html",
        board=board,
        headline=headline(board),
        table=table(board),
        runs=runs_table(board),
        version=version("catae"),
    )
    return board
