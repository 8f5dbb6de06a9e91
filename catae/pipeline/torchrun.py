"""Training without an orchestrator, by one process or by several that `torchrun` has started on one host or more."""

from collections.abc import Mapping
from typing import Any

from catae import settings
from catae.data import cache, ingest
from catae.data.split import Split
from catae.errors import UserError
from catae.pipeline import stages, tracking
from catae.run import Run
from catae.settings import Settings
from catae.system import hardware
from catae.training import distributed, metrics, trainer
from catae.training.distributed import World


def fit(chosen: Settings, origins: Mapping[str, str]) -> Run | None:
    """Reads, divides, trains, and hands out the model, in a run's folder; gives it, where this process writes.

    The first of the processes writes the run. The first of each host reads the pictures, into the host's own cache.

    Args:
        chosen: the settings.
        origins: where each of them came from.

    Raises:
        UserError: something is the user's to mend; among others, hosts whose pictures or settings differ.
        Lost: another process has ended.
    """
    with distributed.joined() as us:
        hardware.use_threads(chosen.threads, us.beside)
        if us.first:
            return _lead(us, chosen, origins)
        _follow(us, chosen)
        return None


def _lead(us: World, chosen: Settings, origins: Mapping[str, str]) -> Run:
    # Started again by torchrun, it goes on with what it began.
    resume = "auto" if distributed.restarted() and chosen.resume == "never" else chosen.resume
    with tracking.recorded(chosen.model_copy(update={"resume": resume}), origins) as new:
        images_path = stages.read(new, chosen)
        us.wait()
        with cache.in_use(images_path):
            stages.divide(new, images_path, chosen)
            images, parts = stages.divided(new, images_path)
            us.told({"facts": settings.hyperparameters(chosen) | {"pictures": images.digest}, "split": vars(parts)})
            identity = new.identity(chosen)
            after_epoch = tracking.telling(new, metrics.log)
            outcome = trainer.fit(images, parts, chosen, new.events, new.checkpoints, identity, after_epoch, us)
            stages.finalize(new, images_path, chosen, outcome)
    return new


def _follow(us: World, chosen: Settings) -> None:
    if us.local > 0:
        us.wait()  # until the first of this host has read
    images, _ = ingest.read(chosen.source, chosen.output_dir / "cache", chosen.image_size, chosen.on_reject)
    if us.local == 0:
        us.wait()
    with cache.in_use(images.path):
        told = us.told(None)
        _compare(settings.hyperparameters(chosen) | {"pictures": images.digest}, told["facts"], us)
        trainer.fit_worker(images, Split(**told["split"]), chosen, us)


def _compare(ours: Mapping[str, Any], firsts: Mapping[str, Any], us: World) -> None:
    """Looks whether this process is about the same as the first one.

    Raises:
        UserError: it isn't.
    """
    if others := [name for name, value in firsts.items() if ours[name] != value]:
        raise UserError(
            f"process {us.rank} has other {', '.join(others)} than the first one: give all hosts the same pictures "
            "and settings"
        )
