"""A sweep as a Prefect flow: one task for each trial, run by the task runner that the settings name.

catae sweep --latent-dim 32,64,128 --seed 0..4
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TagsContext
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner
from threadpoolctl import threadpool_limits

from catae.data import image_store, ingest
from catae.errors import TrialPruned, UserError
from catae.pipeline import stages, tracking
from catae.pipeline.stages import Stage
from catae.run import FINISHED, Run
from catae.settings import Settings
from catae.sweep import leaderboard, search, search_space
from catae.sweep.plan import Plan, plan_sweep
from catae.sweep.search import PastTrial
from catae.sweep.state import DONE, Sweep, Trial, batches, open_sweep
from catae.system import files, hardware, progress
from catae.system.text import count
from flows import artifacts, parameters, task_runners, tasks

logger = logging.getLogger("catae.sweep")


# Workers import this function from `flows.sweep`, so deployments name the flow by its module, not by its file.
@task(
    name="trial",
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    retries=tasks.RETRIES,
    retry_delay_seconds=tasks.RETRY_DELAY,
    retry_condition_fn=tasks.should_retry,
)
def run_trial(
    name: str,
    folder: Path,
    number: int,
    settings: Settings,
    origins: Mapping[str, str],
    earlier: Sequence[PastTrial] | None,
) -> None:
    """Train and score with the settings of a trial; resume its run, if there is one.

    Args:
        name: of the trial in the UI.
        folder: of the sweep.
        number: of the trial.
        settings: of its run.
        origins: where each setting was set.
        earlier: the runs that decide whether a search prunes this one; None without a search.
    """
    progress.console.quiet = True  # the progress bars of parallel runs would overwrite each other
    sweep = Sweep(folder)
    if previous := sweep.run_of(number):
        with files.locked(previous.path):  # a worker whose sweep was killed may still be writing
            pass
        if previous.read()["state"] in DONE:
            return
    threads = hardware.use_threads(settings.threads)
    resolved = settings.model_copy(update={"resume": previous.id if previous else "never"})

    def call(stage: Stage, run: Run, settings: Settings) -> None:
        if stage is stages.train:
            shown = artifacts.Progress(run)
            after_epoch = shown if earlier is None else search.prune_after_epoch(run, earlier, shown)
            shown.end(stages.train(run, settings, after_epoch))
        else:
            stage(run, settings)

    # Dask and Ray give NumPy one thread. Sums over several threads are in another order, with other last digits.
    with (
        threadpool_limits(threads),
        suppress(TrialPruned),
        tracking.open_tracked_run(resolved, origins) as run,
    ):
        sweep.link(number, run)
        stages.run_stages(run, resolved, stages.TRIAL, call)


def run_name() -> str:
    """Return the name of the flow run in the UI: the settings that differ, and the number of trials of a search."""
    given = flow_run.parameters
    over = " · ".join(f"{name} {text}" for name, text in given["over"].items())
    return f"{over} · {count(given['trials'], 'trial')}" if given["trials"] else over


@flow(name="catae-sweep", flow_run_name=run_name)
def catae_sweep(
    over: parameters.Over = parameters.EMPTY,
    trials: parameters.Trials = 0,
    data: parameters.Data = parameters.EMPTY,
    model: parameters.Model = parameters.EMPTY,
    training: parameters.Training = parameters.EMPTY,
    output: parameters.Output = parameters.EMPTY,
    execution: parameters.Execution = parameters.EMPTY,
) -> Path:
    """Train with each of several settings and rank the results.

    A field that is left empty takes its value from the environment of the process that runs the flow.

    Args:
        over: the settings that differ between runs: several values separated by commas, or a range like 0..4.
        trials: the maximum number of runs of a search; 0: every combination.
        data: the images, and how they are split.
        model: the shape of the autoencoder.
        training: how the weights are learned, and when training ends.
        output: what is drawn, and where files are written.
        execution: what executes the runs, and how many at once.

    Returns:
        The folder of the sweep.

    Raises:
        UserError: the settings are invalid, the workers cannot be reached, or every run has failed.
    """
    plan = plan_sweep(parameters.merge(data, model, training, output, execution, over), trials)
    task_runners.check(plan.base)
    with ExitStack() as stack:
        stack.enter_context(TagsContext(current_tags=set()))
        stack.enter_context(task_runners.share_server(plan.base))
        sweep = stack.enter_context(open_sweep(plan))
        runner: TaskRunner[Any] | None = None
        for batch in batches(sweep, plan):
            _read_images(plan, batch, stack)
            runner = runner or stack.enter_context(task_runners.create(plan.base))
            _run_batch(sweep, plan, batch, runner)
        states = [trial.state for trial in sweep.trials()]
        if all(state in DONE for state in states):
            sweep.finish()
        board = leaderboard.write_leaderboard(sweep)
        image_store.evict(plan.base.output_dir / "cache", plan.base.cache_gb * 1e9)
    artifacts.publish_leaderboard(sweep, board)
    if FINISHED not in states:
        raise UserError(f"no run of sweep {sweep.id} has finished: {' '.join(board.notes)}")
    return sweep.path


def _read_images(plan: Plan, batch: list[Trial], stack: ExitStack) -> None:
    """Decode the images once, before the runs that share them, and keep them in the cache until `stack` ends."""
    for size in dict.fromkeys(plan.resolve(trial.values)[0].image_size for trial in batch):
        base = plan.base
        images, _ = ingest.read(base.source, base.output_dir / "cache", size, base.on_reject)
        stack.enter_context(image_store.in_use(images.path))


def _run_batch(sweep: Sweep, plan: Plan, batch: list[Trial], runner: TaskRunner[Any]) -> None:
    """Run the trials of a batch, as many at once as the runner can, and record how each ended."""
    futures: dict[int, PrefectFuture[Any]] = {}
    for trial in batch:
        resolved, origins = plan.resolve(trial.values)
        arguments = {
            "name": leaderboard.named(trial.values),
            "folder": sweep.path,
            "number": trial.number,
            "settings": resolved,
            "origins": origins,
            "earlier": sweep.before(trial) if plan.max_trials else None,
        }
        futures[trial.number] = runner.submit(run_trial, arguments)
    for number, future in futures.items():
        ended = sweep.end(number, task_runners.failure(future))
        logger.info(_line(ended, len(sweep.trials())))
        leaderboard.write_leaderboard(sweep)


def _line(trial: Trial, total: int) -> str:
    """Return one line about how a trial ended."""
    line = f"{trial.number} of {total}: {leaderboard.named(trial.values)}: {trial.state}"
    return f"{line}: {trial.error}" if trial.error else f"{line} (run {trial.run})"


def run_sweep_flow(flags: Mapping[str, Any], trials: int) -> Path:
    """Run the flow in this process, with the text of flags by setting; return the folder of the sweep."""
    over = {name: text for name, text in flags.items() if not search_space.is_single(search_space.parse(name, text))}
    rest = {name: text for name, text in flags.items() if name not in over}
    execution = {name: text for name, text in rest.items() if name in parameters.EXECUTION}
    with tags("catae", "sweep"):
        return catae_sweep(over=over, trials=trials, execution=execution, **parameters.to_forms(rest))
