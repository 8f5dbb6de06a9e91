"""One run of a sweep, as the one task that a runner gives to a worker.

It is a module of its own, and not a script that is started: workers import it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from threadpoolctl import threadpool_limits

from catae.data import cache
from catae.errors import TrialPruned
from catae.pipeline import tracking
from catae.settings import Settings
from catae.sweep import search
from catae.sweep.search import PastTrial
from catae.sweep.state import DONE, Sweep
from catae.system import files, hardware, progress
from flows import artifacts, tasks


@task(
    name="run of a sweep",
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    retries=tasks.RETRIES,
    retry_delay_seconds=tasks.PAUSE,
    retry_condition_fn=tasks.may_pass,
)
def train(
    name: str,
    folder: Path,
    number: int,
    settings: Settings,
    origins: Mapping[str, str],
    earlier: Sequence[PastTrial] | None,
) -> None:
    """Reads, splits, trains and scores, with the settings of a trial; goes on with its run, if it has begun one.

    Args:
        name: what the run is called in the UI.
        folder: the sweep's.
        number: of the trial.
        settings: the run's.
        origins: where they come from.
        earlier: the runs that a search judges this one by; None without a search.
    """
    progress.console.quiet = True  # the bars of several runs would be drawn over each other
    sweep = Sweep(folder)
    if before := sweep.run_of(number):
        with files.locked(before.path):  # a worker whose sweep was killed may still be at it
            pass
        if before.read()["state"] in DONE:
            return
    threads = hardware.use_threads(settings.threads)
    asked = settings.model_copy(update={"resume": before.id if before else "never"})
    # Dask and Ray give NumPy one thread; the sums of more are in another order, and their last digits are others.
    with threadpool_limits(threads), suppress(TrialPruned), tracking.recorded(asked, origins) as new:
        sweep.link(number, new)
        images = tasks.read.fn(new.path, asked)
        with cache.in_use(images):
            tasks.divide.fn(new.path, images, asked)
            told = artifacts.Progress(new)
            watch = told if earlier is None else search.prune_after_epoch(new, earlier, told)
            told.end(tasks.fit(new.path, images, asked, watch))
            tasks.draw_curves.fn(new.path)
            tasks.score.fn(new.path, images, asked)
