"""Estimate the disk space and memory that training needs, before it starts."""

from contextlib import AbstractContextManager

import torch

from catae.model.autoencoder import AutoEncoder, activations
from catae.settings import Settings
from catae.system import hardware

BYTES = {"fp32": 4, "bf16": 2}
MOMENTS = 2  # numbers that Adam stores per weight: mean and mean square of the gradient


def disk_needed(settings: Settings) -> int:
    """Return the bytes of disk space that the checkpoints of a training need.

    These are the last state, the previous one, and the next while it is written, each with the weights, their average
    and Adam's moments; and the best model and the previous best.
    """
    return (3 * (2 + MOMENTS) + 2) * _weights(settings)


def memory_needed(settings: Settings, batch: int) -> int:
    """Estimate the bytes of memory that a step with `batch` images needs.

    These are the weights, their average, their gradients and Adam's moments; the activations of each layer, in the
    precision of the training, and 0.3 times as much for gradients in flight; and two float32 images for the loss.
    Measured usage is 0.7 to 1.6 times the estimate (batches of 512 and 1,024, 64x64 and 128x128, width 32 and 64).
    """
    precision, _ = hardware.precision(settings.precision)
    stored = BYTES[precision] * activations(settings.image_size, settings.width, settings.activation)
    loss = 2 * 4 * 3 * settings.image_size**2
    return round((3 + MOMENTS) * _weights(settings) + batch * (1.3 * stored + loss))


def enough_memory(settings: Settings, batch: int) -> AbstractContextManager[None]:
    """Return a context that requires enough memory for steps with `batch` images.

    Raises:
        UserError: memory is too small on entry, or runs out later.
    """
    return hardware.explain_oom(
        f"training with width {settings.width} and batches of {batch:,}",
        memory_needed(settings, batch),
        "lower CATAE_BATCH_SIZE or CATAE_WIDTH, or provide more memory",
    )


def _weights(settings: Settings) -> int:
    """Return the bytes of the model's weights."""
    with torch.device("meta"):
        model = AutoEncoder.from_settings(settings, settings.image_size)
    return sum(weight.nbytes for weight in model.parameters())
