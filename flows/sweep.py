"""A sweep, as a flow: a run for each trial, as a task, on the runner that the settings name.

catae sweep --latent-dim 32,64,128 --seed 0..4
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import flow, tags
from prefect.context import TagsContext
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner

from catae import run
from catae.data import cache, ingest
from catae.errors import UserError
from catae.sweep import leaderboard, search_space
from catae.sweep import state as sweep_state
from catae.sweep.plan import Plan, plan_sweep
from catae.sweep.state import Sweep, Trial, open_sweep
from catae.system.text import count
from flows import artifacts, parameters, points, task_runners

logger = logging.getLogger("catae.sweep")


def run_name() -> str:
    """What is swept over, for the UI."""
    asked = flow_run.parameters
    over = " · ".join(f"{name} {said}" for name, said in asked["over"].items())
    return f"{over} · {count(asked['trials'], 'trial')}" if asked["trials"] else over


@flow(name="catae-sweep", flow_run_name=run_name)
def catae_sweep(
    over: parameters.Over = parameters.NOTHING,
    trials: parameters.Trials = 0,
    data: parameters.Data = parameters.NOTHING,
    model: parameters.Model = parameters.NOTHING,
    training: parameters.Training = parameters.NOTHING,
    pictures: parameters.Pictures = parameters.NOTHING,
    spread: parameters.Spread = parameters.NOTHING,
) -> Path:
    """Trains with each of several settings, and ranks what came of it.

    What is left empty is decided by the environment where the sweep starts.

    Args:
        over: the settings in which the runs differ: several values with commas between them, or a range like 0..4.
        trials: how many runs a search may try; 0: every combination.
        data: which pictures, and how they are divided.
        model: the shape of the autoencoder.
        training: how the weights are found, and when the search ends.
        pictures: what is written, and where.
        spread: where the runs are done.

    Returns:
        The sweep's folder.

    Raises:
        UserError: nothing can be done where the settings say, or every run has failed.
    """
    plan = plan_sweep(parameters.given(data, model, training, pictures, spread, over), trials)
    task_runners.check(plan.base)
    with ExitStack() as held:
        held.enter_context(TagsContext(current_tags=set()))
        held.enter_context(task_runners.workers_speak_to(plan.base))
        new = held.enter_context(open_sweep(plan))
        runner: TaskRunner[Any] | None = None
        for batch in sweep_state.batches(new, plan):
            _read_pictures(plan, batch, held)
            runner = runner or held.enter_context(task_runners.start(plan.base))
            _do(new, plan, batch, runner)
        states = [trial.state for trial in new.trials()]
        if all(status in sweep_state.DONE for status in states):
            new.finish()
        board = leaderboard.write(new)
        cache.trim(plan.base.output_dir / "cache", plan.base.cache_gb * 1e9)
    artifacts.publish_leaderboard(new, board)
    if run.FINISHED not in states:
        raise UserError(f"no run of sweep {new.id} has come to its end: {' '.join(board.notes)}")
    return new.path


def _read_pictures(plan: Plan, batch: list[Trial], held: ExitStack) -> None:
    """Reads the pictures once, before the runs that all want them, and keeps them for as long as `held` does."""
    for size in dict.fromkeys(plan.settings(trial.values).image_size for trial in batch):
        base = plan.base
        images, _ = ingest.read(base.source, base.output_dir / "cache", size, base.on_reject)
        held.enter_context(cache.in_use(images.path))


def _do(new: Sweep, plan: Plan, batch: list[Trial], runner: TaskRunner[Any]) -> None:
    """Does the points of a batch, as many at once as the runner can, and writes down how each ended."""
    futures: dict[int, PrefectFuture[Any]] = {}
    for trial in batch:
        asked = {
            "name": leaderboard.named(trial.values),
            "folder": new.path,
            "number": trial.number,
            "settings": plan.settings(trial.values),
            "origins": dict(plan.origins),
            "earlier": new.before(trial) if plan.max_trials else None,
        }
        futures[trial.number] = runner.submit(points.train, asked)
    for number, future in futures.items():
        ended = new.end(number, task_runners.failure(future))
        logger.info(_line(ended, len(new.trials())))
        leaderboard.write(new)


def _line(trial: Trial, of: int) -> str:
    """How a trial ended, in a line."""
    said = f"{trial.number} of {of}: {leaderboard.named(trial.values)}: {trial.state}"
    return f"{said}: {trial.error}" if trial.error else f"{said} (run {trial.run})"


def once(said: Mapping[str, Any], trials: int) -> Path:
    """Runs the flow in this process, with what the flags say; gives the sweep's folder."""
    over = {name: value for name, value in said.items() if not search_space.is_single(search_space.parse(name, value))}
    rest = {name: value for name, value in said.items() if name not in over}
    spread = {name: value for name, value in rest.items() if name in parameters.SPREAD}
    with tags("catae", "sweep"):
        return catae_sweep(over=over, trials=trials, spread=spread, **parameters.sorted_into_forms(rest))
