"""Format the metrics of an epoch: one line for people, scalars for TensorBoard."""

import logging
from dataclasses import dataclass
from datetime import timedelta

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch. Losses are mean L1 per image, for images in [-1, 1]."""

    number: int
    train_loss: float
    test_loss: float
    validation_loss: float | None  # None without validation images
    learning_rate: float
    images_per_second: float
    seconds: float
    is_best: bool


def time_left(epoch: Epoch, max_epochs: int) -> timedelta:
    """Return the estimated time until `max_epochs`. Early stopping may end training sooner."""
    return timedelta(seconds=round((max_epochs - epoch.number) * epoch.seconds))


def log(epoch: Epoch, max_epochs: int) -> None:
    """Log an epoch in one line."""
    logger.info(line(epoch, max_epochs))


def scalars(epoch: Epoch) -> dict[str, float]:
    """Return the scalars that TensorBoard plots, by tag."""
    losses = {"loss/train": epoch.train_loss, "loss/test": epoch.test_loss, "loss/validation": epoch.validation_loss}
    return {tag: loss for tag, loss in losses.items() if loss is not None} | {
        "learning_rate": epoch.learning_rate,
        "images_per_second": epoch.images_per_second,
        "seconds": epoch.seconds,
    }


def line(epoch: Epoch, max_epochs: int) -> str:
    """Format an epoch as one line, at most 80 columns wide without validation images."""
    validation = "" if epoch.validation_loss is None else f"  validation {epoch.validation_loss:.4f}"
    return (
        f"epoch {epoch.number:>{len(str(max_epochs))}}/{max_epochs}  train {epoch.train_loss:.4f}"
        f"{validation}  test {epoch.test_loss:.4f}{'*' if epoch.is_best else ' '}  lr {epoch.learning_rate:<7.2g}"
        f"  {epoch.images_per_second:,.0f} img/s  ETA {time_left(epoch, max_epochs)}"
    )
