"""Create runs for tests by calling the stages as plain functions, without Prefect."""

from catae import settings
from catae.pipeline import lifecycle, stages
from catae.run import Run
from catae.settings import Settings


def train(resolved: Settings) -> Run:
    """Create a run and train its model; return the run."""
    run = lifecycle.create_run(resolved, settings.origins())
    stages.run_stages(run, resolved, stages.TRAINING)
    return run


def run_all_stages(resolved: Settings) -> Run:
    """Create a run and run all stages; return the run."""
    run = lifecycle.create_run(resolved, settings.origins())
    stages.run_stages(run, resolved)
    return run
