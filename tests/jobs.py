"""The job's steps as plain functions, in the order of the flow, with no server."""

from pathlib import Path

from catae import run, settings
from catae.run import Run
from catae.settings import Settings
from flows import tasks


def train(resolved: Settings) -> Run:
    """A run that has come as far as its trained model."""
    new = run.create(resolved, settings.origins())
    train_in(new, resolved)
    return new


def train_in(new: Run, resolved: Settings) -> None:
    """Comes as far in a run that has begun."""
    images = tasks.read.fn(new.path, resolved)
    tasks.divide.fn(new.path, images, resolved)
    tasks.train.fn(new.path, images, resolved)


def whole(resolved: Settings) -> Run:
    """A whole run."""
    new = train(resolved)
    images = Path(new.read()["data"]["store"])
    tasks.draw_curves.fn(new.path)
    tasks.reconstruct.fn(new.path, images)
    tasks.generate.fn(new.path, resolved)
    tasks.interpolate.fn(new.path, images, resolved)
    tasks.score.fn(new.path, images, resolved)
    tasks.measure.fn(new.path, images, resolved)
    tasks.map_latents.fn(new.path, images, resolved)
    tasks.log_results.fn(new.path, resolved)
    tasks.write_report.fn(new.path)
    return new
