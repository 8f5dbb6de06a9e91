"""The runs of a sweep, ranked: those that differ in nothing but the seed are one entry, with their mean.

Runs of one seed have the same test pictures, and those of another have others, which may be harder. So entries are
compared over the same seeds: one that lacks some of them comes after those that have all.
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
from catae.report.run_summary import Scores, Summary, Training
from catae.report.tables import NONE, Cell, Table
from catae.sweep.state import Sweep, Trial
from catae.system import files
from catae.system.text import count, duration, printable


@dataclass(frozen=True)
class Mean:
    """The mean of a score over seeds, and its standard deviation, where there are two at least."""

    value: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """The mean of values, of which there is one at least."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def text(self, decimals: int) -> str:
        """It in digits, with its deviation."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.{decimals}f}"
        return f"{self.value:.{decimals}f}{spread}"


@dataclass(frozen=True)
class Reached:
    """What the runs of an entry came to.

    Attributes:
        runs: how many of them have scores.
        judged_l1: L1 on the pictures that decide: `l1`, or on validation pictures at the epoch that was kept.
        l1, psnr, ssim: on each run's test pictures; L1 of pixels in [-1, 1].
        pca_l1: that of a PCA with as many components as the code has numbers, on the same pictures.
        epochs, seconds: of training, on average.
    """

    runs: int
    judged_l1: Mean
    l1: Mean
    psnr: Mean
    ssim: Mean
    pca_l1: Mean
    epochs: float
    seconds: float


@dataclass(frozen=True)
class Entry:
    """The runs of one choice of settings, one for each seed: `settings` are those in which the entries differ."""

    settings: dict[str, Any]
    points: tuple[Trial, ...]
    reached: Reached | None

    @property
    def name(self) -> str:
        """What it is called."""
        return named(self.settings) or "these settings"


@dataclass(frozen=True)
class Leaderboard:
    """A sweep, as far as it has come.

    Attributes:
        id: the sweep's.
        entries: the best one first, by the loss that decides; those that lack seeds after the others.
        over: the settings in which the entries differ.
        seeds: how many runs each entry has.
        monitor: 'test' or 'validation', the pictures whose loss decides.
        pictures: how many test pictures a run has.
        comparable: whether the runs of each seed have the same test pictures.
        notes: a sentence on each run that failed.
    """

    id: str
    entries: tuple[Entry, ...]
    over: tuple[str, ...]
    seeds: int
    monitor: str
    pictures: int
    comparable: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """It as JSON has it."""
        return {"headline": headline(self), **asdict(self)}


def named(values: dict[str, Any]) -> str:
    """Settings in a few words, like 'latent_dim 32, seed 1'."""
    return ", ".join(f"{name} {cell(value)}" for name, value in values.items())


def cell(value: Any) -> str:
    """A setting's value, of which a number that a search drew has more digits than anyone needs."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(sweep: Sweep) -> Leaderboard:
    """The sweep's points, ranked.

    Raises:
        UserError: a run's files are missing or damaged.
    """
    points = sweep.trials()
    runs = {
        trial.number: run_summary.read(found)
        for trial in points
        if trial.state == run.FINISHED and (found := sweep.run_of(trial.number))
    }
    over = tuple(name for name in points[0].values if name != "seed") if points else ()
    alike: dict[str, list[Trial]] = {}
    for trial in points:
        alike.setdefault(repr([trial.values[name] for name in over]), []).append(trial)
    entries = [
        Entry({name: group[0].values[name] for name in over}, tuple(group), _reached(group, runs))
        for group in alike.values()
    ]
    return Leaderboard(
        id=sweep.id,
        entries=tuple(sorted(entries, key=_order)),
        over=over,
        seeds=max((len(entry.points) for entry in entries), default=0),
        monitor=next((each.training.monitor for each in runs.values() if each.training), "test"),
        pictures=next((each.scores.pictures for each in runs.values() if each.scores), 0),
        comparable=_comparable(points, runs),
        notes=tuple(_note(trial) for trial in points if trial.state == "failed"),
    )


def _reached(points: Sequence[Trial], runs: dict[int, Summary]) -> Reached | None:
    """What the runs of these points came to; None if none has scores."""
    finished = [each for trial in points if (each := runs.get(trial.number))]
    both = [(each.scores, each.training) for each in finished if each.scores and each.training]
    if not both:
        return None
    scores, trainings = zip(*both, strict=True)
    return Reached(
        runs=len(scores),
        judged_l1=Mean.of([_judged(score, training) for score, training in both]),
        l1=Mean.of([score.model.l1 for score in scores]),
        psnr=Mean.of([score.model.psnr for score in scores]),
        ssim=Mean.of([score.model.ssim for score in scores]),
        pca_l1=Mean.of([score.pca.l1 for score in scores]),
        epochs=mean(training.epochs for training in trainings),
        seconds=mean(training.seconds for training in trainings),
    )


def _judged(scores: Scores, training: Training) -> float:
    """L1 on the pictures that decided: the test ones as scored, since training computes it in its own precision."""
    return scores.model.l1 if training.monitor == "test" else training.best_loss


def _order(entry: Entry) -> tuple[int, float]:
    """Those with the most runs first, and of these the ones with the lowest loss."""
    return (-entry.reached.runs, entry.reached.judged_l1.value) if entry.reached else (0, 0)


def _comparable(points: Sequence[Trial], runs: dict[int, Summary]) -> bool:
    """Whether all scored runs of each seed have the same test pictures."""
    tested: dict[Any, set[Any]] = {}
    for trial in points:
        if each := runs.get(trial.number):
            tested.setdefault(trial.values.get("seed"), set()).add((each.data, frozenset(each.test)))
    return all(len(sets) == 1 for sets in tested.values())


def _note(trial: Trial) -> str:
    who = f"Run {trial.run}" if trial.run else f"Trial {trial.number}"
    return f"{who} ({named(trial.values)}) failed: {trial.error}."


def headline(board: Leaderboard) -> str:
    """Which settings restore best, and by how much, in a sentence."""
    known = [(entry, entry.reached) for entry in board.entries if entry.reached]
    if not known:
        return "No run has scores yet."
    if not board.comparable:
        return "The entries can't be ranked: their runs have different test pictures."
    best, reached = known[0]
    of = f", the mean of {count(reached.runs, 'seed')}" if reached.runs > 1 else ""
    start = f"With {best.name} the L1 error on {board.monitor} pictures is lowest: {reached.judged_l1.text(4)}{of}"
    if len(known) == 1:
        return f"{start}."
    second, behind = known[1]
    if behind.runs < reached.runs:
        return f"{start}; no other has as many runs."
    gap = run_report.difference(reached.judged_l1.value, behind.judged_l1.value)
    return f"{start}; that is {gap} that of the next, {second.name}."


def table(board: Leaderboard) -> Table:
    """Return the leaderboard as a table: a row for each entry, with its place, if it has one."""
    judged = [] if board.monitor == "test" else ["Validation L1"]
    names = ["#", *board.over, *judged, "Test L1", "against PCA", "PSNR, dB", "SSIM", "Epochs", "Took"]
    return Table(
        title="",
        columns=(*(tables.column(name, numeric=True) for name in names), tables.column("Runs")),
        rows=tuple(
            tables.row(
                str(place) if board.comparable and entry.reached else NONE,
                *(cell(entry.settings[name]) for name in board.over),
                *_scores(board, entry.reached, len(judged) + 6),
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
            for trial in entry.points
        ),
    )


def _scores(board: Leaderboard, reached: Reached | None, columns: int) -> list[str]:
    if reached is None:
        return [NONE] * columns
    return [
        *([] if board.monitor == "test" else [reached.judged_l1.text(4)]),
        reached.l1.text(4),
        run_report.difference(reached.l1.value, reached.pca_l1.value),
        f"{reached.psnr.value:.2f}",
        f"{reached.ssim.value:.4f}",
        f"{reached.epochs:.0f}",
        duration(reached.seconds),
    ]


def _runs(entry: Entry) -> str:
    """How many of the entry's runs are finished, or how the only one stands."""
    states = [trial.state for trial in entry.points]
    if set(states) == {run.FINISHED}:
        return str(len(states))
    return states[0] if len(states) == 1 else f"{states.count(run.FINISHED)} of {len(states)}"


def explanation(board: Leaderboard) -> str:
    """What the numbers of the table are, in a few sentences."""
    over_seeds = f"Means of {count(board.seeds, 'seed')}, of L1 ± standard deviation. " if board.seeds > 1 else ""
    return (
        f"{over_seeds}Scores on {count(board.pictures, 'test picture')} of each run, none of them trained on; L1 of "
        f"pixels in [-1, 1]. The order is that of the L1 error on {board.monitor} pictures. "
        "PCA has as many components as the run's code has numbers."
    )


def text(board: Leaderboard) -> RenderableType:
    """The leaderboard for a terminal."""
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


def write(sweep: Sweep) -> Leaderboard:
    """Writes the leaderboard into the sweep's folder, as JSON and as a page; gives it."""
    board = read(sweep)
    files.write_json(sweep.board, board.to_dict())
    html.write(
        sweep.page,
        "leaderboard.html",
        board=board,
        headline=headline(board),
        table=table(board),
        runs=runs_table(board),
        version=version("catae"),
    )
    return board
