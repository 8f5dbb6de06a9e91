"""The stages of a run as Prefect tasks: a name, options and one call each.

Tasks take paths and settings, never tensors. Prefect caches no results: a cached path may name a file that is gone. The
library has its own caches, of images and splits, and checks them before use.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_engine import TaskRunTimeoutError

from catae.errors import UserError
from catae.pipeline import stages
from catae.pipeline.stages import Stage
from catae.run import Run
from catae.settings import Settings
from flows import artifacts

logger = logging.getLogger("catae.tasks")

RETRIES, RETRY_DELAY = 2, 10  # in seconds: enough for a disk or a mount that fails for a moment


def should_retry(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether a task that failed may succeed if it is retried: not after a user's error or a timeout."""
    error = state.result(raise_on_failure=False)
    retry = not isinstance(error, UserError | TaskRunTimeoutError)
    if retry:
        logger.warning("%s failed and is retried in %s s: %r", task.name, RETRY_DELAY, error)
    return retry


@task(name="read images", cache_policy=NO_CACHE)
def read(folder: Path, settings: Settings) -> None:
    """Decode the images of the source."""
    stages.read(Run(folder), settings)


@task(name="split", cache_policy=NO_CACHE)
def split(folder: Path, settings: Settings) -> None:
    """Assign each image to train, test or validation by its content."""
    stages.split(Run(folder), settings)


@task(
    name="train",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY,
    retry_condition_fn=should_retry,
)
def train(folder: Path, settings: Settings) -> None:
    """Train the model, export the weights of the best epoch, and show the progress in Prefect's UI."""
    progress = artifacts.Progress(Run(folder))
    progress.end(stages.train(Run(folder), settings, progress))


@task(name="draw curves", cache_policy=NO_CACHE)
def draw_curves(folder: Path, settings: Settings) -> None:
    """Draw the loss curves from the event files."""
    stages.draw_curves(Run(folder), settings)


@task(name="reconstruct", cache_policy=NO_CACHE)
def reconstruct(folder: Path, settings: Settings) -> None:
    """Draw test images above their reconstructions."""
    stages.reconstruct(Run(folder), settings)


@task(name="generate", cache_policy=NO_CACHE)
def generate(folder: Path, settings: Settings) -> None:
    """Draw random samples."""
    stages.generate(Run(folder), settings)


@task(name="interpolate", cache_policy=NO_CACHE)
def interpolate(folder: Path, settings: Settings) -> None:
    """Draw the interpolation between two test images."""
    stages.interpolate(Run(folder), settings)


@task(name="score", cache_policy=NO_CACHE)
def score(folder: Path, settings: Settings) -> None:
    """Score the reconstructions of the test images, next to PCA and the mean image."""
    stages.score(Run(folder), settings)


@task(name="measure samples", cache_policy=NO_CACHE)
def measure_samples(folder: Path, settings: Settings) -> None:
    """Measure how far samples of each prior are from test images."""
    stages.measure_samples(Run(folder), settings)


@task(name="map latents", cache_policy=NO_CACHE)
def map_latents(folder: Path, settings: Settings) -> None:
    """Describe the latents of train and test images, and draw a map of them."""
    stages.map_latents(Run(folder), settings)


@task(name="log results", cache_policy=NO_CACHE)
def log_results(folder: Path, settings: Settings) -> None:
    """Log hyperparameters, final scores and the map of the latents for TensorBoard."""
    stages.log_results(Run(folder), settings)


@task(name="write report", cache_policy=NO_CACHE)
def write_report(folder: Path, settings: Settings) -> None:
    """Write the report of the run, one HTML page."""
    stages.write_report(Run(folder), settings)


@task(name="publish", cache_policy=NO_CACHE)
def publish(folder: Path) -> None:
    """Show the finished run in Prefect's UI."""
    artifacts.publish_run(Run(folder))


@task(name="publish", cache_policy=NO_CACHE)
def publish_image(path: Path, key: str, title: str) -> None:
    """Show an image in Prefect's UI."""
    artifacts.publish_image(path, key, title)


TASKS: Mapping[Stage, Task[..., None]] = {
    stages.read: read,
    stages.split: split,
    stages.train: train,
    stages.draw_curves: draw_curves,
    stages.reconstruct: reconstruct,
    stages.generate: generate,
    stages.interpolate: interpolate,
    stages.score: score,
    stages.measure_samples: measure_samples,
    stages.map_latents: map_latents,
    stages.log_results: log_results,
    stages.write_report: write_report,
}


def call_as_task(stage: Stage, run: Run, settings: Settings) -> None:
    """Call a stage as its task, and stop training after `timeout_minutes`.

    Raises:
        UserError: training timed out.
    """
    task = TASKS[stage]
    if stage is stages.train and settings.timeout_minutes:
        task = task.with_options(timeout_seconds=60 * settings.timeout_minutes)
    try:
        task(run.path, settings)
    except TaskRunTimeoutError as error:
        raise UserError(
            f"training timed out after {settings.timeout_minutes:g} minutes (CATAE_TIMEOUT_MINUTES); run the same "
            "command again to resume it, for as long again"
        ) from error
