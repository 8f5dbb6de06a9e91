"""Train without an orchestrator: in one process, or in several that `torchrun` has started on one or more hosts."""

from collections.abc import Mapping
from typing import Any

from catae import settings
from catae.data import image_store, ingest
from catae.data.split import Split
from catae.errors import UserError
from catae.pipeline import stages, tracking
from catae.pipeline.inputs import load_inputs
from catae.pipeline.stages import Stage
from catae.run import Run
from catae.settings import Settings
from catae.system import hardware
from catae.training import distributed, loop
from catae.training.distributed import World


def fit_run(resolved: Settings, origins: Mapping[str, str]) -> Run | None:
    """Read, split, train and export the model, in the folder of a run.

    The main process writes the run. The first process of each host decodes the images into the cache of its host.

    Args:
        resolved: the settings.
        origins: where each setting was set.

    Returns:
        The run, in the main process; None in others.

    Raises:
        UserError: the user has to fix something, for example images or settings that differ between hosts.
        WorkerLost: another process has ended.
    """
    with distributed.init_process_group() as world:
        hardware.use_threads(resolved.threads, world.local_world_size)
        if world.is_main:
            return _fit_main(world, resolved, origins)
        _fit_worker(world, resolved)
        return None


def _fit_main(world: World, resolved: Settings, origins: Mapping[str, str]) -> Run:
    def call(stage: Stage, run: Run, settings: Settings) -> None:
        if stage is stages.train:
            _share_inputs(world, run, settings)
            stages.train(run, settings, world=world)
        else:
            stage(run, settings)
        if stage is stages.read:
            world.barrier()  # now the other processes of this host may read

    # After a restart by torchrun, the run that was begun is resumed.
    resume = "auto" if distributed.restarted() and resolved.resume == "never" else resolved.resume
    with tracking.open_tracked_run(resolved.model_copy(update={"resume": resume}), origins) as run:
        stages.run_stages(run, resolved, stages.TRAINING, call)
    return run


def _share_inputs(world: World, run: Run, resolved: Settings) -> None:
    """Broadcast the split, and what the other processes compare their own images and settings with."""
    inputs = load_inputs(run)
    world.broadcast({"facts": _facts(resolved, inputs.images.digest), "split": vars(inputs.split)})


def _fit_worker(world: World, resolved: Settings) -> None:
    if world.local_rank > 0:
        world.barrier()  # until the first process of this host has read the images
    images, _ = ingest.read(resolved.source, resolved.output_dir / "cache", resolved.image_size, resolved.on_reject)
    if world.local_rank == 0:
        world.barrier()
    with image_store.in_use(images.path):
        received = world.broadcast(None)
        _check_same(_facts(resolved, images.digest), received["facts"], world)
        loop.fit_worker(images, Split(**received["split"]), resolved, world)


def _facts(resolved: Settings, digest: str) -> dict[str, Any]:
    return settings.hyperparameters(resolved) | {"pictures": digest}


def _check_same(own: Mapping[str, Any], main: Mapping[str, Any], world: World) -> None:
    """Check that this process has the images and settings of the main process.

    Raises:
        UserError: they differ.
    """
    if different := [name for name, value in main.items() if own[name] != value]:
        raise UserError(
            f"process {world.rank} has a different {', '.join(different)} than the main process: give all hosts the "
            "same images and settings"
        )
