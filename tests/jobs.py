"""Runs for tests: the stages as plain functions, without Prefect."""

from catae import settings
from catae.pipeline import lifecycle, stages
from catae.run import Run
from catae.settings import Settings


def train(resolved: Settings) -> Run:
    """Return a run up to its trained model."""
    run = lifecycle.create_run(resolved, settings.origins())
    stages.run_stages(run, resolved, stages.TRAINING)
    return run


def whole(resolved: Settings) -> Run:
    """Return a run with all stages done."""
    run = lifecycle.create_run(resolved, settings.origins())
    stages.run_stages(run, resolved)
    return run
