"""Train an autoencoder for one epoch, evaluate it, and save or restore the state between steps."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from catae.system import hardware, progress, rng
from catae.training.distributed import SINGLE, World
from catae.training.early_stopping import EarlyStopping
from catae.training.ema import EMA
from catae.training.metrics import Epoch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
NO_IDENTITY: Mapping[str, str] = MappingProxyType({})


class Trainer:
    """The state of a training: model, optimizer, scheduler, moving average, early stopping and progress.

    Training resumes bit-identically from `state_dict`, between epochs and within one. With several processes, each has
    the same state, byte for byte, and trains on its share of the images. A state does not depend on their number.

    Args:
        settings: of the run.
        identity: digests of the data, the split and the settings, stored in every state.
        world: the processes that train together.
    """

    def __init__(self, settings: Settings, identity: Mapping[str, str] = NO_IDENTITY, world: World = SINGLE) -> None:
        self.settings, self.identity, self.world = settings, dict(identity), world
        self.precision, self.precision_because = hardware.precision(settings.precision)
        self.dtype = PRECISIONS[self.precision]
        self.model = AutoEncoder.from_settings(settings, settings.image_size)
        random_init = "kaiming" if settings.init == "pca" else settings.init  # `start_linear` replaces it
        init.initialize(self.model, random_init, rng.generator(settings.seed, "initialisation"))
        # Batches are channels-last, and oneDNN's fp32 convolutions are 1.1 times as fast in that layout.
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = Adam(self.model.parameters(), settings.learning_rate, fused=True)
        self.scheduler = StepLR(self.optimizer, settings.lr_step_size, settings.lr_gamma)
        self.ema = EMA(self.model, settings.ema_decay) if settings.ema_decay else None
        self.early_stopping = EarlyStopping(settings.patience, settings.min_delta)
        self.monitor = "validation" if settings.validation_fraction else "test"
        self.epoch = 0  # completed epochs
        self.progress = EpochProgress()

    def start_linear(self, images: ImageStore, positions: Sequence[int]) -> None:
        """Initialize the model as a linear autoencoder from a random sample of the train images."""
        order = torch.randperm(len(positions), generator=rng.generator(self.settings.seed, "pictures to start"))
        sample = [positions[place] for place in order[: pca_init.sample_size(self.model)].tolist()]
        if pca_init.initialize(self.model, normalize(images.take(sample)).contiguous()) and self.ema:
            self.ema.restart()

    @property
    def eval_model(self) -> AutoEncoder:
        """The model to evaluate and to keep: with the averaged weights, unless `ema_decay` is 0."""
        return self.ema.module if self.ema else self.model

    @property
    def stop_reason(self) -> str | None:
        """Why training is over, or None if it is not."""
        if self.early_stopping.should_stop:
            return (
                f"the {self.monitor} loss fell by no more than {self.early_stopping.min_delta:.2%} "
                f"for {self.early_stopping.patience} epochs in a row"
            )
        if self.epoch >= self.settings.max_epochs:
            return f"max_epochs ({self.settings.max_epochs}) was reached"
        return None

    def run_epoch(self, images: ImageStore, split: Split, save: Callable[[], None] = lambda: None) -> Epoch:
        """Train on every train image once, then evaluate on the test and validation images.

        Args:
            images: the store.
            split: positions of the train, test and validation images.
            save: saves the state; called every `checkpoint_minutes` within the epoch.

        Raises:
            UserError: the loss is not finite.
        """
        number, learning_rate = self.epoch + 1, self.optimizer.param_groups[0]["lr"]
        self._train(images, split, number, save)
        train_loss = self.progress.loss_sum.item() / self.progress.images
        start = time.perf_counter()
        test_loss = self._evaluate(images, split.test)
        validation_loss = self._evaluate(images, split.validation) if split.validation else None
        monitored_loss = test_loss if validation_loss is None else validation_loss
        if not math.isfinite(train_loss + test_loss + monitored_loss):
            raise UserError(
                f"training diverged in epoch {number}: the loss is {train_loss} on train and {test_loss} on test "
                f"images; lower CATAE_LEARNING_RATE, which is {self.settings.learning_rate}"
            )
        self.scheduler.step()
        train_seconds, self.progress, self.epoch = self.progress.seconds, EpochProgress(), number
        return Epoch(
            number=number,
            train_loss=train_loss,
            test_loss=test_loss,
            validation_loss=validation_loss,
            learning_rate=learning_rate,
            images_per_second=len(split.train) / train_seconds,
            seconds=train_seconds + time.perf_counter() - start,
            is_best=self.early_stopping.update(number, monitored_loss),
        )

    def _train(self, images: ImageStore, split: Split, number: int, save: Callable[[], None]) -> None:
        """Take the remaining steps of epoch `number`."""
        done, batch_size, seed = self.progress, self.settings.batch_size, self.settings.seed
        augmentation = (self.settings.hflip, self.settings.shift, self.settings.affine)
        rank, world_size = self.world.rank, self.world.world_size
        loader = train_loader(
            images, split.train, batch_size, seed, number, done.batches, *augmentation, rank, world_size
        )
        self.model.train()
        saved_at = step_end = time.perf_counter()
        for batch in progress.track(loader, f"epoch {number}", len(loader)):
            total = min(batch_size, len(split.train) - done.images)  # of all processes
            loss = step(self.model, batch, self.optimizer, self.dtype, self.world, total)
            done.loss_sum += loss * total
            if self.ema:
                self.ema.update()
            done.images += total
            done.batches += 1
            now = time.perf_counter()
            done.seconds += now - step_end
            step_end = now
            # After the last batch, the caller saves the state of the whole epoch.
            if now - saved_at > 60 * self.settings.checkpoint_minutes and done.images < len(split.train):
                save()
                saved_at = step_end = time.perf_counter()

    def _evaluate(self, images: ImageStore, positions: Sequence[int]) -> float:
        return evaluate(self.eval_model, ordered_loader(images, self.world.share(positions)), self.dtype, self.world)

    def state_dict(self) -> dict[str, object]:
        """Return everything needed to resume, as tensors and plain values."""
        return {
            "identity": self.identity,
            "epoch": self.epoch,
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "ema": self.ema and self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "early_stopping": self.early_stopping.state_dict(),
        }

    def best_state(self) -> dict[str, object]:
        """Return what is kept of the best epoch: the evaluated model and its shape."""
        return {
            "identity": self.identity,
            "shape": weights.shape(self.eval_model),
            "model": self.eval_model.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self.epoch = state["epoch"]
        self.progress = EpochProgress(**state["progress"])
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.early_stopping = EarlyStopping(**state["early_stopping"])


@dataclass
class EpochProgress:
    """Progress within an epoch.

    Attributes:
        batches: completed so far.
        images: in them, of all processes.
        loss_sum: sum of the losses of these images, ().
        seconds: of training.
    """

    batches: int = 0
    images: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0


def step(
    model: nn.Module,
    batch: Tensor,
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype = torch.float32,
    world: World = SINGLE,
    total: int | None = None,
) -> Tensor:
    """Take one optimizer step and return the mean L1 loss before it, ().

    Args:
        model: the autoencoder.
        batch: this process's share of the batch, float32 (images, 3, size, size) in [-1, 1].
        optimizer: of the model's weights.
        dtype: of the computation.
        world: the processes that train together.
        total: images in the whole batch, if it has more than this process's share.
    """
    optimizer.zero_grad()
    loss = l1(model, batch, dtype, len(batch) if total is None else total)
    loss.backward()  # type: ignore[no-untyped-call]
    loss = world.all_reduce_gradients([*model.parameters()], loss.detach())
    optimizer.step()
    return loss


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Loader, dtype: torch.dtype = torch.float32, world: World = SINGLE) -> float:
    """Return the mean L1 loss over the images of all processes' loaders, for images in [-1, 1]."""
    model.eval()
    losses = [l1(model, batch, dtype, len(batch)).item() * len(batch) for batch in loader]
    loss_sum, total = world.all_reduce_sum(sum(losses), sum(len(batch) for batch in loader))
    return loss_sum / total


def l1(model: nn.Module, batch: Tensor, dtype: torch.dtype, total: int) -> Tensor:
    """Return the batch's part of the mean L1 loss over `total` images, float32 (). The model computes in `dtype`.

    It is a sum divided by a constant: the gradient of PyTorch's mean is channels-first, and converting it takes 1.5 %
    of a step.
    """
    reconstructions = model(batch.to(dtype)).float()
    return nn.functional.l1_loss(reconstructions, batch, reduction="sum") / (total * batch.shape[1:].numel())
