"""The state of a sweep: its trials, and how far they are.

The sweep's folder is `<output_dir>/sweeps/<id>`. Its runs are ordinary runs in `<output_dir>/runs`. The folder `runs`
in the sweep's folder has a link to each, by the number of its trial.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from catae import run
from catae.errors import UserError
from catae.run import Run
from catae.sweep import search, search_space
from catae.sweep.plan import Plan
from catae.sweep.search import PastTrial
from catae.system import files, text

DONE = (run.FINISHED, run.PRUNED)


@dataclass(frozen=True)
class Trial:
    """One run of a sweep, done or to be done.

    Attributes:
        number: counted from 1.
        values: of the settings in which the runs differ.
        after: how many trials, from the first, a search chose it by and compares it with; 0 in a grid.
        state: waiting, finished, pruned or failed.
        run: the id of its run, once that has ended.
        error: why it failed or was pruned.
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
        """Return the folder's name: when the sweep started, in UTC."""
        return self.path.name

    def read(self) -> dict[str, Any]:
        """Return the content of `sweep.json`.

        Raises:
            UserError: it cannot be read, or is something else.
        """
        return files.read_manifest(self.manifest, "sweep", {"plan": dict, "points": list, "finished": str | None})

    def trials(self) -> list[Trial]:
        """Return the trials, in the order of their numbers."""
        return [Trial(**trial) for trial in self.read()["points"]]

    def record(self, trials: Sequence[Trial]) -> None:
        """Write the state of the trials."""
        files.write_json(self.manifest, self.read() | {"points": [asdict(trial) for trial in trials]})

    def end(self, number: int, error: str | None) -> Trial:
        """Write how a trial ended, according to its run's files, or else with `error`."""
        trials, found = self.trials(), self.run_of(number)
        missing = f"it left no run in {self.runs}; check that all machines of the cluster see that folder"
        manifest = found.read() if found else {"state": "failed", "error": error or missing}
        ended = replace(
            trials[number - 1],
            state=manifest["state"] if manifest["state"] in DONE else "failed",
            run=found.id if found else None,
            error=manifest["error"] or error,
        )
        self.record([*trials[: number - 1], ended, *trials[number:]])
        return ended

    def finish(self) -> None:
        """Record that every trial is done."""
        files.write_json(self.manifest, self.read() | {"finished": text.utc_now()})

    def run_of(self, number: int) -> Run | None:
        """Return the run of a trial, or None before it starts."""
        link = self.runs / str(number)
        return Run(link.resolve()) if (link / "run.json").is_file() else None

    def link(self, number: int, target: Run) -> None:
        """Record `target` as the run of a trial."""
        self.runs.mkdir(exist_ok=True)
        files.symlink(self.runs / str(number), target.path)

    def before(self, trial: Trial) -> list[PastTrial]:
        """Return the trials that a search compares `trial` with, as they ended."""
        return [self._past(earlier) for earlier in self.trials()[: trial.after]]

    def _past(self, trial: Trial) -> PastTrial:
        found = self.run_of(trial.number)
        best = found.read()["training"]["best_loss"] if found and trial.state == run.FINISHED else None
        return PastTrial(trial.values, search.monitored_losses(found) if found and trial.state in DONE else {}, best)


@contextmanager
def open_sweep(plan: Plan) -> Iterator[Sweep]:
    """Yield the sweep to do, locked: an unfinished one with the same plan, or a new one.

    A sweep is finished when all its trials finished or were pruned. One with failed trials is not: the same command
    tries them again.

    Raises:
        UserError: another process is working on it, or nothing can be written.
    """
    with ExitStack() as resources:
        yield _choose(plan, resources)


def batches(sweep: Sweep, plan: Plan) -> Iterator[list[Trial]]:
    """Yield the trials that are still to be done, in batches that may run in parallel.

    Each batch must have ended, and be recorded in `sweep`, before the next is requested.
    """
    trials = sweep.trials()
    if waiting := [trial for trial in trials if trial.state not in DONE]:
        yield waiting
    while len(trials) < plan.max_trials:
        after = len(trials)
        count = min(plan.base.workers, plan.max_trials - after)
        earlier = sweep.before(Trial(after + 1, {}, after))
        proposed = search.propose(plan.over, earlier, count, plan.base.seed)
        if not proposed:
            return  # every combination has been tried
        new = [Trial(number, values, after) for number, values in enumerate(proposed, after + 1)]
        sweep.record([*sweep.trials(), *new])
        yield new
        trials = sweep.trials()


def _choose(plan: Plan, resources: ExitStack) -> Sweep:
    """Return the sweep to do, locked until `resources` closes. One process at a time chooses."""
    sweeps = plan.base.output_dir / "sweeps"
    with files.explain_os_errors(plan.base.output_dir):
        sweeps.mkdir(parents=True, exist_ok=True)
        with files.locked(sweeps):
            sweep = _to_resume(sweeps, plan) or _create(sweeps, plan)
            try:
                resources.enter_context(files.locked(sweep.path, wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"another process is working on {sweep.path}: wait for it, or start a new sweep with --resume never"
                ) from error
            return sweep


def _to_resume(sweeps: Path, plan: Plan) -> Sweep | None:
    """Return the newest unfinished sweep with the same plan."""
    if plan.base.resume == "never":
        return None
    identity = files.digest_of(plan.identity)
    existing = [Sweep(path) for path in sorted(sweeps.iterdir(), reverse=True) if Sweep(path).manifest.is_file()]
    for sweep in existing:
        manifest = sweep.read()
        if not manifest["finished"] and files.digest_of(manifest["plan"]) == identity:
            return sweep
    return None


def _create(sweeps: Path, plan: Plan) -> Sweep:
    sweep = Sweep(files.create_timestamped(sweeps))
    trials = [] if plan.max_trials else _grid(plan.over)
    manifest = {"id": sweep.id, "started": text.utc_now(), "finished": None, "plan": plan.identity}
    files.write_json(sweep.manifest, manifest | {"points": [asdict(trial) for trial in trials]})
    return sweep


def _grid(over: Mapping[str, search_space.Choice]) -> list[Trial]:
    """Return a trial for each combination of values."""
    values = product(*(search_space.list_values(name, choice) for name, choice in over.items()))
    return [Trial(number, dict(zip(over, each, strict=True))) for number, each in enumerate(values, 1)]
