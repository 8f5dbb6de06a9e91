"""A sweep: the runs with each of several settings, or with those that a search chooses, and how far it has come.

Its folder is `<output_dir>/sweeps/<id>`. Each of its runs is one like any other, in `<output_dir>/runs`; `runs` in the
sweep's folder has a link to each, by the number of its point.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from catae import run, settings
from catae.data import sources
from catae.errors import UserError
from catae.run import Run
from catae.settings import Settings, hyperparameters
from catae.sweep import search, search_space
from catae.sweep.search import Trial
from catae.sweep.search_space import Choice
from catae.system import files, hardware

MOST = 1000  # runs of a sweep: more are a slip of the keyboard
ENDED = (run.FINISHED, run.PRUNED)
# They decide which pictures a loss is of. A search compares losses, and would choose the pictures that are easy.
OTHER_PICTURES = ("seed", "image_size", "test_fraction", "validation_fraction", "duplicates")


@dataclass(frozen=True)
class Plan:
    """What is to be tried.

    Attributes:
        base: the settings that all runs share.
        origins: where each of them comes from.
        over: those in which they differ, and their values.
        trials: how many runs a search may try; 0: every combination.
    """

    base: Settings
    origins: Mapping[str, str]
    over: Mapping[str, Choice]
    trials: int

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the results.

        It is the same on every runner. How many runs there are at once is a part of it for a search only, which learns
        from the runs before.
        """
        shared = {name: value for name, value in hyperparameters(self.base).items() if name not in self.over}
        return {
            "settings": shared | {"source": self.base.source},
            "over": {name: search_space.plain(choice) for name, choice in self.over.items()},
            "trials": self.trials,
            "at_once": self.base.workers if self.trials else None,
        }

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """Those of the run that is given `values`."""
        return self.base.model_copy(update=dict(values))


@dataclass(frozen=True)
class Point:
    """One run of a sweep, done or to be done.

    Attributes:
        number: counted from 1.
        values: of the settings in which the runs differ.
        after: how many points, the first ones, it was chosen after, and is judged by; none in a grid.
        state: waiting, or how it ended: finished, pruned or failed.
        run: the id of its run, when that has ended.
        error: why it failed, or was given up.
    """

    number: int
    values: dict[str, Any]
    after: int = 0
    state: str = "waiting"
    run: str | None = None
    error: str | None = None


class Sweep:
    """The folder `<output_dir>/sweeps/<id>`, and the paths in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "sweep.json"
        self.runs = path / "runs"
        self.page = path / "leaderboard.html"
        self.board = path / "leaderboard.json"

    @property
    def id(self) -> str:
        """The folder's name: when the sweep began, in UTC."""
        return self.path.name

    def read(self) -> dict[str, Any]:
        """What `sweep.json` says.

        Raises:
            UserError: it can't be read, or is something else.
        """
        return files.read_manifest(self.manifest, "sweep", {"plan": dict, "points": list, "finished": str | None})

    def points(self) -> list[Point]:
        """The points, in the order of their numbers."""
        return [Point(**point) for point in self.read()["points"]]

    def record(self, points: Sequence[Point]) -> None:
        """Writes down how the points stand."""
        files.write_json(self.manifest, self.read() | {"points": [asdict(point) for point in points]})

    def end(self, number: int, error: str | None) -> Point:
        """Writes down how a point has ended, as its run's files say, or else with `error`."""
        points, found = self.points(), self.run_of(number)
        nothing = f"it left nothing in {self.runs}: do all machines of the cluster see that folder?"
        said = found.read() if found else {"state": "failed", "error": error or nothing}
        ended = replace(
            points[number - 1],
            state=said["state"] if said["state"] in ENDED else "failed",
            run=found.id if found else None,
            error=said["error"] or error,
        )
        self.record([*points[: number - 1], ended, *points[number:]])
        return ended

    def finish(self) -> None:
        """Writes down that nothing is missing."""
        files.write_json(self.manifest, self.read() | {"finished": run.moment()})

    def run_of(self, number: int) -> Run | None:
        """The run of a point, once there is one."""
        link = self.runs / str(number)
        return Run(link.resolve()) if (link / "run.json").is_file() else None

    def link(self, number: int, to: Run) -> None:
        """Makes `to` the run of a point."""
        self.runs.mkdir(exist_ok=True)
        run.point(self.runs / str(number), to.path)

    def before(self, point: Point) -> list[Trial]:
        """The runs that a point was chosen after, as they ended."""
        return [self._trial(earlier) for earlier in self.points()[: point.after]]

    def _trial(self, point: Point) -> Trial:
        found = self.run_of(point.number)
        best = found.read()["training"]["best_loss"] if found and point.state == run.FINISHED else None
        return Trial(point.values, search.judged(found) if found and point.state in ENDED else {}, best)


def plan(said: Mapping[str, Any], trials: int = 0) -> Plan:
    """What is asked for.

    Args:
        said: by the name of the setting, a value, or what a flag says: `spans.parse` knows how.
        trials: how many runs a search may try; 0: every combination is tried.

    Raises:
        UserError: a value is out of its range, there is nothing to choose from, or there are too many combinations.
    """
    choices = {name: search_space.parse(name, value) for name, value in said.items() if value is not None}
    over = {name: choice for name, choice in choices.items() if not search_space.is_one(choice)}
    asked = settings.load({name: search_space.listed(name, choices[name])[0] for name in choices if name not in over})
    base = asked.model_copy(
        update={
            # Of another directory, a worker of a cluster would take another file. What the machine decides is decided
            # here: the number of threads and the precision decide the bytes, and are to be the same everywhere.
            "source": sources.absolute(asked.source),
            "output_dir": asked.output_dir.expanduser().absolute(),
            "threads": asked.threads or max(1, hardware.usable_cpus() // asked.workers),
            "precision": hardware.precision(asked.precision)[0],
        }
    )
    if asked.resume not in ("auto", "never"):
        raise UserError(f"--resume is {asked.resume!r}: a sweep takes auto, which goes on with it, or never")
    made = [name for name in Settings.model_fields if name in over or getattr(base, name) != getattr(asked, name)]
    origins = settings.origins(said) | dict.fromkeys(made, "sweep")
    if trials:
        _check_search(over, trials)
    else:
        _check_grid(over)
    return Plan(base, origins, over, trials)


def _check_grid(over: Mapping[str, Choice]) -> None:
    if not over:
        raise UserError("a sweep needs a setting with several values, like --latent-dim 32,64,128 or --seed 0..4")
    number = prod(len(search_space.listed(name, choice)) for name, choice in over.items())
    if number > MOST:
        raise UserError(f"these are {number:,} combinations, and {MOST:,} is the most; search with --trials")


def _check_search(over: Mapping[str, Choice], trials: int) -> None:
    if not 1 <= trials <= MOST:
        raise UserError(f"--trials is {trials}: it must be from 1 to {MOST:,}")
    if not over:
        raise UserError("a search needs a setting to choose, like --learning-rate 0.0001..0.01 or --width 16,32")
    for name in OTHER_PICTURES:
        if name in over:
            raise UserError(
                f"--trials compares losses on the same pictures, which {search_space.flag(name)} decides: "
                "give it one value, or leave --trials out"
            )
    search.require()


@contextmanager
def recorded(plan: Plan) -> Iterator[Sweep]:
    """The sweep to do, kept to this process: one of the same plan that has not been finished, or a new one.

    It is finished when all of its points are, or are given up. One with points that failed is not: the same command
    tries them again.

    Raises:
        UserError: another process is at it, or nothing can be written.
    """
    with ExitStack() as held:
        yield _choose(plan, held)


def batches(sweep: Sweep, plan: Plan) -> Iterator[list[Point]]:
    """The points that are still to be done, in batches whose points may be done at once.

    Each batch must have ended, and `sweep` must know how, before the next one is asked for.
    """
    points = sweep.points()
    if missing := [point for point in points if point.state not in ENDED]:
        yield missing
    while len(points) < plan.trials:
        after = len(points)
        count = min(plan.base.workers, plan.trials - after)
        earlier = sweep.before(Point(after + 1, {}, after))
        proposed = search.propose(plan.over, earlier, count, plan.base.seed)
        if not proposed:
            return  # all there are have been tried
        new = [Point(number, values, after) for number, values in enumerate(proposed, after + 1)]
        sweep.record([*sweep.points(), *new])
        yield new
        points = sweep.points()


def _choose(plan: Plan, held: ExitStack) -> Sweep:
    """The sweep to do, locked until `held` ends. One process at a time chooses."""
    sweeps = plan.base.output_dir / "sweeps"
    with files.explain_os_errors(plan.base.output_dir):
        sweeps.mkdir(parents=True, exist_ok=True)
        with files.locked(sweeps):
            sweep = _to_resume(sweeps, plan) or _create(sweeps, plan)
            try:
                held.enter_context(files.locked(sweep.path, wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"{sweep.path} is being done by another process: wait for it, or start another with --resume never"
                ) from error
            return sweep


def _to_resume(sweeps: Path, plan: Plan) -> Sweep | None:
    """The newest sweep of the same plan that is not finished."""
    if plan.base.resume == "never":
        return None
    identity = files.digest_of(plan.identity)
    there = [Sweep(path) for path in sorted(sweeps.iterdir(), reverse=True) if Sweep(path).manifest.is_file()]
    for sweep in there:
        said = sweep.read()
        if not said["finished"] and files.digest_of(said["plan"]) == identity:
            return sweep
    return None


def _create(sweeps: Path, plan: Plan) -> Sweep:
    sweep = Sweep(run.new_folder(sweeps))
    points: list[Point] = []
    if not plan.trials:
        values = product(*(search_space.listed(name, choice) for name, choice in plan.over.items()))
        points = [Point(number, dict(zip(plan.over, each, strict=True))) for number, each in enumerate(values, 1)]
    said = {"id": sweep.id, "started": run.moment(), "finished": None, "plan": plan.identity}
    files.write_json(sweep.manifest, said | {"points": [asdict(point) for point in points]})
    return sweep
