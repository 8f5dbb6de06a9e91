"""The steps of the job as tasks: they take and give paths and small values, and leave the work to `catae`.

Prefect caches none of them: it would hand back the path of a file without a look whether it is still there. What the
library keeps, pictures and splits, it looks at before use.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_engine import TaskRunTimeoutError

from catae.data import loader, sources, split
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.evaluation import reconstruction, samples
from catae.inference import gallery, latent_map
from catae.inference import interpolate as walks
from catae.latent import priors, space, stats
from catae.model import weights
from catae.pipeline import launcher, stages, tracking
from catae.report import figures, run_report
from catae.run import Run
from catae.settings import Settings, hyperparameters
from catae.system import rng
from catae.training import tensorboard, trainer
from catae.training.metrics import Epoch
from flows import artifacts

logger = logging.getLogger("catae.tasks")

RESTORED = 32  # test pictures in reconstructions.png
RETRIES, PAUSE = 2, 10  # seconds: a disk or a mount that is gone for a moment is back


@task(name="read pictures", cache_policy=NO_CACHE)
def read(folder: Path, settings: Settings) -> Path:
    """Decodes the source's pictures; gives the image set's folder."""
    return stages.read(Run(folder), settings)


@task(name="split", cache_policy=NO_CACHE)
def divide(folder: Path, images_path: Path, settings: Settings) -> None:
    """Decides by content which picture is train and which is test."""
    stages.divide(Run(folder), images_path, settings)


def may_pass(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass: it is neither for the user to mend, nor the end of the time allowed."""
    error = state.result(raise_on_failure=False)
    passing = not isinstance(error, UserError | TaskRunTimeoutError)
    if passing:
        logger.warning("%s failed and is tried again in %s s: %r", task.name, PAUSE, error)
    return passing


@task(name="train", cache_policy=NO_CACHE, retries=RETRIES, retry_delay_seconds=PAUSE, retry_condition_fn=may_pass)
def train(folder: Path, images_path: Path, settings: Settings) -> None:
    """Trains, and keeps the weights of the best epoch, with codes like N(0, I), and the priors of the train codes."""
    told = artifacts.Progress(Run(folder))
    told.end(fit(folder, images_path, settings, told))


def fit(
    folder: Path, images_path: Path, settings: Settings, after_epoch: Callable[[Epoch, int], None]
) -> trainer.Outcome:
    """What the task `train` does, with `after_epoch` called after each epoch; gives how it ended."""
    run, image_set, parts = _inputs(folder, images_path)
    after_epoch = tracking.telling(run, after_epoch)
    if settings.processes > 1:
        outcome = launcher.fit(run, settings.processes, after_epoch)
    else:
        identity = run.identity(settings)
        outcome = trainer.fit(image_set, parts, settings, run.events, run.checkpoints, identity, after_epoch)
    stages.finalize(run, images_path, settings, outcome)
    return outcome


def train_in_time(folder: Path, images_path: Path, settings: Settings) -> None:
    """The task `train`, for as long as `timeout_minutes` allows.

    Raises:
        UserError: it took longer.
    """
    limited = train.with_options(timeout_seconds=60 * settings.timeout_minutes or None)
    try:
        limited(folder, images_path, settings)
    except TaskRunTimeoutError as error:
        raise UserError(
            f"training took longer than {settings.timeout_minutes:g} minutes (CATAE_TIMEOUT_MINUTES) and was ended; "
            "the same command goes on where it was, for as long again"
        ) from error


@task(name="draw the curves", cache_policy=NO_CACHE)
def draw_curves(folder: Path) -> None:
    """Draws the loss curves from the event files."""
    run = Run(folder)
    figures.curves(tensorboard.read_scalars(run.events), run.read()["training"]["best_epoch"], run.curves)


@task(name="restore test pictures", cache_policy=NO_CACHE)
def reconstruct(folder: Path, images_path: Path) -> None:
    """Draws test pictures over their restorations: the first distinct ones, not chosen by looks."""
    run, image_set, parts = _inputs(folder, images_path)
    first = {image_set.digests[position]: position for position in reversed(parts.test)}
    shown = image_set.take(sorted(first.values())[:RESTORED])
    gallery.restore(weights.load(run.model), shown, run.reconstructions, "test pictures")


@task(name="generate", cache_policy=NO_CACHE)
def generate(folder: Path, settings: Settings) -> None:
    """Draws random pictures: of the recipe's latents of N(0, I), before the fold and after, and of the Gaussian."""
    run = Run(folder)
    model, fitted = weights.load(run.model), priors.load(run.priors)
    before = trainer.kept(run.checkpoints)
    gallery.generate(before, fitted, "randn", settings.samples, settings.seed, run.generated_unwhitened)
    gallery.generate(model, fitted, "randn", settings.samples, settings.seed, run.generated)
    gallery.generate(model, fitted, "gaussian", settings.samples, settings.seed, run.generated_gaussian)


@task(name="interpolate", cache_policy=NO_CACHE)
def interpolate(folder: Path, images_path: Path, settings: Settings) -> None:
    """Draws the walk between two test pictures, as a picture and as an animation."""
    run, image_set, parts = _inputs(folder, images_path)
    ends = gallery.pair(image_set.names, parts.test, settings.interpolation_pair, settings.seed)
    names = [image_set.names[position] for position in ends]
    for path in (run.interpolation, run.animation):
        walks.draw_walk(
            weights.load(run.model),
            image_set.take(ends),
            names,
            settings.interpolation_steps,
            path,
        )
    run.record(interpolation=names)


@task(name="score", cache_policy=NO_CACHE)
def score(folder: Path, images_path: Path, settings: Settings) -> None:
    """Scores the restorations of the test pictures, beside those of a PCA and of the mean picture."""
    run, image_set, parts = _inputs(folder, images_path)
    comparison = reconstruction.compare(
        weights.load(run.model),
        loader.ordered_loader(image_set, parts.train),
        loader.ordered_loader(image_set, parts.test),
        rng.generator(settings.seed, "PCA"),
    )
    run.record(scores=asdict(comparison))
    logger.info(run_report.headline(asdict(comparison)))


@task(name="measure random pictures", cache_policy=NO_CACHE)
def measure(folder: Path, images_path: Path, settings: Settings) -> None:
    """Measures how far samples of each prior are from test pictures, and draws those that are nearest."""
    run, image_set, parts = _inputs(folder, images_path)
    model, fitted = weights.load(run.model), priors.load(run.priors)
    measured = samples.measure(model, fitted, image_set, parts, settings.seed)
    samples.draw_nearest(model, fitted, measured.best, image_set, parts, settings.seed, run.nearest)
    run.generated_best.unlink(missing_ok=True)
    if measured.best not in ("randn", "gaussian"):  # which have a picture of their own
        gallery.generate(model, fitted, measured.best, settings.samples, settings.seed, run.generated_best)
    run.record(generation=asdict(measured))
    logger.info(samples.summary(measured))


@task(name="map the latents", cache_policy=NO_CACHE)
def map_latents(folder: Path, images_path: Path, settings: Settings) -> None:
    """Describes where the latents of train and test pictures lie, and draws a map, for the projector as well."""
    run, image_set, parts = _inputs(folder, images_path)
    pictures = loader.ordered_loader(image_set, parts.test)
    test = space.encode(trainer.kept(run.checkpoints), pictures)
    folded = space.encode(weights.load(run.model), pictures)
    train = stats.LatentStats(**run.read()["latents"]["train"])
    clouds = stats.compare(train, test, folded, rng.generator(settings.seed, "samples beside the latents"))
    run.record(latents=asdict(clouds))
    latent_map.show(run, image_set, parts.test, test, clouds)


@task(name="log the results", cache_policy=NO_CACHE)
def log_results(folder: Path, settings: Settings) -> None:
    """Logs what TensorBoard compares runs by: the settings that decide what is learned, the final scores, the map."""
    run = Run(folder)
    said = run.read()
    columns = hyperparameters(settings) | {"source": sources.label(settings.source)}
    reached = {f"score/{name}": said["scores"]["model"][name] for name in ("l1", "psnr", "ssim")}
    tensorboard.write_final(run.events, run.id, columns, reached, run.latents, said["training"]["best_epoch"])


@task(name="write the report", cache_policy=NO_CACHE)
def write_report(folder: Path) -> None:
    """Writes the one page that shows all of the run."""
    run_report.write(Run(folder))


@task(name="show in the UI", cache_policy=NO_CACHE)
def show(folder: Path) -> None:
    """Shows the finished run in Prefect's UI."""
    artifacts.publish(Run(folder))


@task(name="show in the UI", cache_policy=NO_CACHE)
def show_picture(path: Path, key: str, title: str) -> None:
    """Shows a picture in Prefect's UI."""
    artifacts.publish_picture(path, key, title)


def _inputs(folder: Path, images_path: Path) -> tuple[Run, ImageStore, split.Split]:
    """What most steps start from: the run, its pictures and their split."""
    run = Run(folder)
    return run, *stages.divided(run, images_path)
