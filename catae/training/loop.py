"""Train until the loss stops improving, with checkpoints and TensorBoard logs."""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.errors import UserError
from catae.model.autoencoder import AutoEncoder
from catae.settings import Settings
from catae.system import files
from catae.training import checkpoint, metrics, preflight, tensorboard
from catae.training.distributed import SINGLE, World
from catae.training.metrics import Epoch
from catae.training.tensorboard import Samples
from catae.training.trainer import NO_IDENTITY, Trainer

logger = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Outcome:
    """How a training ended. `monitor` is 'test' or 'validation': the images whose loss decides when to stop."""

    epochs: int
    best_epoch: int
    best_loss: float
    monitor: str
    stop_reason: str
    seconds: float
    seconds_per_epoch: float
    precision: str
    precision_because: str


def fit(
    images: ImageStore,
    split: Split,
    settings: Settings,
    events_dir: Path,
    checkpoints_dir: Path,
    identity: Mapping[str, str] = NO_IDENTITY,
    after_epoch: Callable[[Epoch, int], None] = metrics.log,
    world: World = SINGLE,
) -> Outcome:
    """Train an autoencoder until the monitored loss stops improving. Resume bit-identically after an interruption.

    After each epoch, `events_dir` has its metrics. `checkpoints_dir` has `last.pt`, the whole state, and `best.pt`, the
    model of the best epoch so far.

    Args:
        images: the store.
        split: positions of the train, test and validation images.
        settings: of the run.
        events_dir: folder for TensorBoard's event files.
        checkpoints_dir: folder for the checkpoints.
        identity: digests of the data, the split and the settings; checkpoints with another identity are ignored.
        after_epoch: called with the epoch and `max_epochs` once all of the epoch is on the disk.
        world: the processes that train together. This is the main one; the others call `fit_worker`.

    Raises:
        UserError: the loss is not finite, or a file cannot be written.
        WorkerLost: another process has ended.
    """
    last, best = checkpoints_dir / LAST, checkpoints_dir / BEST
    logger.info("training on %s images, testing on %s", f"{len(split.train):,}", f"{len(split.test):,}")
    with _enough_memory(settings, split, world):
        trainer = _load_or_start(settings, identity, world, last, images, split)
        world.broadcast(trainer.state_dict())
        existing = sum(file.stat().st_size for file in checkpoints_dir.glob("*.pt"))
        files.check_free_space(checkpoints_dir, preflight.disk_needed(settings) - existing)
        samples = Samples.select(images, split, settings)
        logger.info("computing in %s: %s", trainer.precision, trainer.precision_because)
        logger.info("(*: best epoch so far; ETA: until max_epochs, at the latest)")
        with tensorboard.open_log(events_dir, first_epoch=trainer.epoch + 1) as log:
            while not (reason := trainer.stop_reason):
                epoch = trainer.run_epoch(images, split, lambda: checkpoint.save(last, trainer.state_dict()))
                log.scalars(epoch.number, metrics.scalars(epoch))
                samples.write(trainer.eval_model, epoch.number, log)
                # `best` first: if killed between the two, the epoch runs again, with the same result.
                if epoch.is_best:
                    checkpoint.save(best, trainer.best_state())
                checkpoint.save(last, trainer.state_dict())
                after_epoch(epoch, settings.max_epochs)
    logger.info("training ends: %s", reason)
    seconds = sorted(tensorboard.read_scalars(events_dir).get("seconds", {0: 0.0}).values())
    return Outcome(
        epochs=trainer.epoch,
        best_epoch=trainer.early_stopping.best_epoch,
        best_loss=float(trainer.early_stopping.best or 0),
        monitor=trainer.monitor,
        stop_reason=reason,
        seconds=sum(seconds),
        seconds_per_epoch=seconds[len(seconds) // 2],
        precision=trainer.precision,
        precision_because=trainer.precision_because,
    )


def fit_worker(images: ImageStore, split: Split, settings: Settings, world: World) -> None:
    """Train together with the main process, which calls `fit`. Write nothing.

    The initial state comes from the main process: another host may not see its disk, and may compute other initial
    weights.

    Args:
        images: the store.
        split: positions of the train, test and validation images.
        settings: of the run.
        world: the processes that train together. This is not the main one.

    Raises:
        UserError: the loss is not finite.
        WorkerLost: another process has ended.
    """
    with _enough_memory(settings, split, world):
        trainer = Trainer(settings, world=world)
        trainer.load_state_dict(world.broadcast(None))
        while not trainer.stop_reason:
            trainer.run_epoch(images, split)


def load_best(checkpoints_dir: Path) -> AutoEncoder:
    """Return the model of the best epoch, in evaluation mode.

    Raises:
        UserError: its file cannot be read, or is damaged.
    """
    state = checkpoint.load(checkpoints_dir / BEST)
    model = AutoEncoder(**state["shape"])
    model.load_state_dict(state["model"])
    model.to(memory_format=torch.channels_last)
    return model.eval()


def _enough_memory(settings: Settings, split: Split, world: World) -> AbstractContextManager[None]:
    batch = math.ceil(min(settings.batch_size, len(split.train)) / world.world_size)
    return preflight.enough_memory(settings, batch)


def _load_or_start(
    settings: Settings, identity: Mapping[str, str], world: World, last: Path, images: ImageStore, split: Split
) -> Trainer:
    """Return a trainer with the last saved state, or with the initial one if there is none."""
    trainer = Trainer(settings, identity, world)
    if (state := checkpoint.load_newest(last, identity)) is None:
        if settings.init == "pca":
            trainer.start_linear(images, split.train)
    else:
        try:
            trainer.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"{last} is not a state of this training: {error!r}; remove it and run again") from error
        logger.info("resuming after epoch %s and %s batches", trainer.epoch, trainer.progress.batches)
    return trainer
