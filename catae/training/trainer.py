"""Training: one epoch, one evaluation, and the whole of it until the error hardly decreases."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from catae.data.image_store import ImageStore
from catae.data.loader import Loader, ordered_loader, train_loader
from catae.data.split import Split
from catae.data.transforms import normalize
from catae.errors import UserError
from catae.model import init, pca_init, weights
from catae.model.autoencoder import AutoEncoder
from catae.settings import Settings
from catae.system import files, hardware, progress, rng
from catae.system.text import count
from catae.training import checkpoint, metrics, preflight, tensorboard
from catae.training.distributed import SINGLE, World
from catae.training.early_stopping import EarlyStopping
from catae.training.ema import Average
from catae.training.metrics import Epoch
from catae.training.watch import Watch

logger = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.pt"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
NO_IDENTITY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Outcome:
    """How a training ended. `monitor`, 'test' or 'validation', are the pictures whose loss decided it."""

    epochs: int
    best_epoch: int
    best_loss: float
    monitor: str
    stop_reason: str
    seconds: float
    seconds_per_epoch: float
    precision: str
    precision_because: str


class Training:
    """Everything that changes while training, with the recipe's optimizer, schedule and stopping.

    It goes on from its `state_dict` as if nothing had happened, between epochs and within one. Of several processes
    that train together each has all of it, to the same bytes, and its share of the pictures; a state is of any number.
    """

    def __init__(self, settings: Settings, identity: Mapping[str, str] = NO_IDENTITY, ranks: World = SINGLE) -> None:
        self.settings, self.identity, self.ranks = settings, dict(identity), ranks
        self.precision, self.precision_because = hardware.precision(settings.precision)
        self.dtype = PRECISIONS[self.precision]
        self.model = AutoEncoder.of(settings, settings.image_size)
        drawn = "kaiming" if settings.init == "pca" else settings.init  # until there are pictures to learn from
        init.initialize(self.model, drawn, rng.generator(settings.seed, "initialisation"))
        # The pictures come channels-last, and oneDNN's convolutions are 1.1 times as fast on that layout in fp32.
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = Adam(
            self.model.parameters(),
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            decoupled_weight_decay=True,  # from the gradients: Loshchilov and Hutter 2019, arXiv:1711.05101
            amsgrad=settings.amsgrad,
            fused=True,
        )
        self.schedule = StepLR(self.optimizer, settings.lr_step_size, settings.lr_gamma)
        self.average = Average(self.model, self.optimizer, settings.ema_decay) if settings.ema_decay else None
        self.stopping = EarlyStopping(settings.patience, settings.min_delta)
        self.monitor = "validation" if settings.validation_fraction else "test"
        self.epoch = 0  # epochs that are over
        self.under_way = EpochProgress()

    def start_linear(self, images: ImageStore, positions: Sequence[int]) -> None:
        """Initialize the model as a linear autoencoder from a random sample of the training images."""
        order = torch.randperm(len(positions), generator=rng.generator(self.settings.seed, "pictures to start"))
        sample = [positions[place] for place in order[: pca_init.sample_size(self.model)].tolist()]
        if pca_init.initialize(self.model, normalize(images.take(sample)).contiguous()) and self.average:
            self.average.restart()

    @property
    def judged(self) -> AutoEncoder:
        """The model that is evaluated and kept: the moving average of the weights, where one is taken."""
        return self.average.module if self.average else self.model

    @property
    def reason_to_stop(self) -> str | None:
        """Why there is no further epoch, or None if there is one."""
        if self.stopping.should_stop:
            return (
                f"the {self.monitor} loss fell by no more than {self.stopping.min_delta:.2%} "
                f"for {self.stopping.patience} epochs in a row"
            )
        if self.epoch >= self.settings.max_epochs:
            return f"the {self.settings.max_epochs} epochs allowed by max_epochs are over"
        return None

    def run_epoch(self, images: ImageStore, split: Split, save: Callable[[], None] = lambda: None) -> Epoch:
        """Trains on every train picture once, in the epoch's order, and evaluates on the test and validation pictures.

        Args:
            images: the pictures.
            split: which of them are train, test and validation.
            save: called every `checkpoint_minutes` within the epoch, to save the state.

        Raises:
            UserError: the loss is no longer a number.
        """
        number, learning_rate = self.epoch + 1, self.optimizer.param_groups[0]["lr"]
        self._train(images, split, number, save)
        train_loss = self.under_way.total.item() / self.under_way.pictures
        start = time.perf_counter()
        test_loss = self._evaluate(images, split.test)
        validation_loss = self._evaluate(images, split.validation) if split.validation else None
        judged = test_loss if validation_loss is None else validation_loss
        if not math.isfinite(train_loss + test_loss + judged):
            raise UserError(
                f"the loss is {train_loss} on train and {test_loss} on test in epoch {number}: training has "
                f"diverged; lower CATAE_LEARNING_RATE, which is {self.settings.learning_rate}"
            )
        if self.under_way.returns and self.ranks.first:
            logger.warning(
                "the loss shot up in epoch %s: training went on from the average of its weights (%s)",
                number,
                count(self.under_way.returns, "time"),
            )
        self.schedule.step()
        trained_seconds, self.under_way, self.epoch = self.under_way.seconds, EpochProgress(), number
        return Epoch(
            number=number,
            train_loss=train_loss,
            test_loss=test_loss,
            validation_loss=validation_loss,
            learning_rate=learning_rate,
            images_per_second=len(split.train) / trained_seconds,
            seconds=trained_seconds + time.perf_counter() - start,
            is_best=self.stopping.update(number, judged),
        )

    def _train(self, images: ImageStore, split: Split, number: int, save: Callable[[], None]) -> None:
        """Takes the steps of epoch `number` that have not been taken yet."""
        now, size, seed = self.under_way, self.settings.batch_size, self.settings.seed
        hflip, shift = self.settings.hflip, self.settings.shift
        loader = train_loader(
            images, split.train, size, seed, number, now.batches, hflip, shift, self.ranks.rank, self.ranks.count
        )
        self.model.train()
        saved = last = time.perf_counter()
        for batch in progress.track(loader, f"epoch {number}", len(loader)):
            pictures = min(size, len(split.train) - now.pictures)  # of all processes
            loss = step(self.model, batch, self.optimizer, self.dtype, self.ranks, pictures)
            now.total += loss * pictures
            if self.average and self.average.follow(loss.item()):
                now.returns += 1
            now.pictures += pictures
            now.batches += 1
            this = time.perf_counter()
            now.seconds += this - last
            last = this
            # After the last batch the epoch's own state is about to be saved.
            if this - saved > 60 * self.settings.checkpoint_minutes and now.pictures < len(split.train):
                save()
                saved = last = time.perf_counter()

    def _evaluate(self, images: ImageStore, positions: Sequence[int]) -> float:
        return evaluate(self.judged, ordered_loader(images, self.ranks.share(positions)), self.dtype, self.ranks)

    def state_dict(self) -> dict[str, object]:
        """All that going on needs, in tensors and plain values."""
        return {
            "identity": self.identity,
            "epoch": self.epoch,
            "under_way": vars(self.under_way),
            "model": self.model.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stopping": self.stopping.state_dict(),
        }

    def best_state(self) -> dict[str, object]:
        """All that is kept of the best epoch."""
        return {
            "identity": self.identity,
            "shape": weights.shape(self.judged),
            "model": self.judged.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self.epoch = state["epoch"]
        self.under_way = EpochProgress(**state["under_way"])
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.stopping = EarlyStopping(**state["stopping"])


@dataclass
class EpochProgress:
    """How far the epoch has come: batches, pictures, the sum of the losses of those pictures, and seconds.

    `returns` is how often the weights got lost in it, and went back to their average.
    """

    batches: int = 0
    pictures: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0
    returns: int = 0


def step(
    model: nn.Module,
    batch: Tensor,
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype = torch.float32,
    ranks: World = SINGLE,
    pictures: int | None = None,
) -> Tensor:
    """Takes one step of the optimizer; gives the mean L1 loss as it was before.

    The loss is a tensor: asking for the number would wait for it at every step.

    Args:
        model: the net.
        batch: this process's share of the batch, float32 (pictures, 3, size, size) in [-1, 1].
        optimizer: of the net's weights.
        dtype: what is computed in.
        ranks: the processes that take the step together.
        pictures: in the whole batch, where it has more than this process's.
    """
    optimizer.zero_grad()
    loss = l1(model, batch, dtype, len(batch) if pictures is None else pictures)
    loss.backward()  # type: ignore[no-untyped-call]
    loss = ranks.all_reduce_gradients([*model.parameters()], loss.detach())
    optimizer.step()
    return loss


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Loader, dtype: torch.dtype = torch.float32, ranks: World = SINGLE) -> float:
    """The mean L1 loss over the pictures of all processes' loaders, in [-1, 1]."""
    model.eval()
    losses = [l1(model, batch, dtype, len(batch)).item() * len(batch) for batch in loader]
    total, pictures = ranks.totals(sum(losses), sum(len(batch) for batch in loader))
    return total / pictures


def l1(model: nn.Module, batch: Tensor, dtype: torch.dtype, pictures: int) -> Tensor:
    """The L1 loss of restorations that are computed in `dtype`, as the batch's part of the mean over so many pictures.

    The loss itself is float32. It is a sum over a constant, since the gradient of PyTorch's mean comes with the
    channels first, and would have to be turned round on its way: 1.5 % of a step.
    """
    restored = model(batch.to(dtype)).float()
    return nn.functional.l1_loss(restored, batch, reduction="sum") / (pictures * batch.shape[1:].numel())


def fit(
    images: ImageStore,
    split: Split,
    settings: Settings,
    events_dir: Path,
    checkpoints_dir: Path,
    identity: Mapping[str, str] = NO_IDENTITY,
    after_epoch: Callable[[Epoch, int], None] = metrics.log,
    ranks: World = SINGLE,
) -> Outcome:
    """Trains an autoencoder until its loss on the test pictures, or the validation ones, hardly decreases.

    After each epoch, the event files in `events_dir` have its figures, and `checkpoints_dir` has `last.pt`,
    the whole state, and `best.pt`, the model of the best epoch so far. It goes on from there if it was interrupted, to
    the same weights as if nothing had happened.

    Args:
        images: the pictures.
        split: which of them are train, test and validation.
        settings: of the training.
        events_dir: for TensorBoard's files.
        checkpoints_dir: for the states.
        identity: of which training it is, by digests of what made it; a state of another is not gone on from.
        after_epoch: called when all of an epoch is on the disk, with the epoch and how many there are at most.
        ranks: the processes that train together; this is the first of them, and the others `fit_worker`.

    Raises:
        UserError: the loss is no longer a number, or something can't be written.
        Lost: another process has ended.
    """
    last, best = checkpoints_dir / LAST, checkpoints_dir / BEST
    logger.info("training on %s pictures, testing on %s", f"{len(split.train):,}", f"{len(split.test):,}")
    with _enough_memory(settings, split, ranks):
        training = _begun(settings, identity, ranks, last, images, split)
        ranks.told(training.state_dict())
        there = sum(file.stat().st_size for file in checkpoints_dir.glob("*.pt"))
        files.check_free_space(checkpoints_dir, preflight.room(settings) - there)
        watch = Watch.of(images, split, settings)
        logger.info("computing in %s: %s", training.precision, training.precision_because)
        logger.info("(*: the best epoch so far; ETA: of the last epoch allowed, at the latest)")
        with tensorboard.writing(events_dir, first_epoch=training.epoch + 1) as log:
            while not (reason := training.reason_to_stop):
                epoch = training.run_epoch(images, split, lambda: checkpoint.save(last, training.state_dict()))
                log.scalars(epoch.number, metrics.scalars(epoch))
                watch.write(training.judged, epoch.number, log)
                # The best one first: killed between the two, the epoch is run again, to the same end.
                if epoch.is_best:
                    checkpoint.save(best, training.best_state())
                checkpoint.save(last, training.state_dict())
                after_epoch(epoch, settings.max_epochs)
    logger.info("training ends: %s", reason)
    speeds = sorted(tensorboard.read_scalars(events_dir).get("seconds", {0: 0.0}).values())
    return Outcome(
        epochs=training.epoch,
        best_epoch=training.stopping.best_epoch,
        best_loss=float(training.stopping.best or 0),
        monitor=training.monitor,
        stop_reason=reason,
        seconds=sum(speeds),
        seconds_per_epoch=speeds[len(speeds) // 2],
        precision=training.precision,
        precision_because=training.precision_because,
    )


def fit_worker(images: ImageStore, split: Split, settings: Settings, ranks: World) -> None:
    """Does this process's share of the training that the first of them does with `fit`; writes nothing.

    It begins with the state that the first one gives it: another host may not see that one's disk, and may compute
    other first weights.

    Args:
        images: the pictures.
        split: which of them are train, test and validation.
        settings: of the training.
        ranks: the processes that train together; this isn't the first of them.

    Raises:
        UserError: the loss is no longer a number.
        Lost: another process has ended.
    """
    with _enough_memory(settings, split, ranks):
        training = Training(settings, ranks=ranks)
        training.load_state_dict(ranks.told(None))
        while not training.reason_to_stop:
            training.run_epoch(images, split)


def kept(checkpoints_dir: Path) -> AutoEncoder:
    """The model of the best epoch, as training left it.

    Raises:
        UserError: its file can't be read, or is damaged.
    """
    state = checkpoint.load(checkpoints_dir / BEST)
    model = AutoEncoder(**state["shape"])
    model.load_state_dict(state["model"])
    model.to(memory_format=torch.channels_last)
    return model.eval()


def _enough_memory(settings: Settings, split: Split, ranks: World) -> AbstractContextManager[None]:
    return preflight.enough_memory(settings, math.ceil(min(settings.batch_size, len(split.train)) / ranks.count))


def _begun(
    settings: Settings, identity: Mapping[str, str], ranks: World, last: Path, images: ImageStore, split: Split
) -> Training:
    """The training as it stands in its last state, or at its beginning, if there is none."""
    training = Training(settings, identity, ranks)
    if (state := checkpoint.load_newest(last, identity)) is None:
        if settings.init == "pca":
            training.start_linear(images, split.train)
    else:
        try:
            training.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"{last} is no state of this training: {error!r}; remove it, and run again") from error
        logger.info("going on after epoch %s and %s batches", training.epoch, training.under_way.batches)
    return training
