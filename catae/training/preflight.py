"""What a training needs of the disk and of the memory, looked at before it begins."""

from contextlib import AbstractContextManager

import torch

from catae.model.autoencoder import AutoEncoder, activations
from catae.settings import Settings
from catae.system import hardware

BYTES = {"fp32": 4, "bf16": 2}


def room(settings: Settings) -> int:
    """Bytes on the disk for the states of a training.

    The last state, the one before it, and the next while it is written, each with the weights, their average and Adam's
    moments of them; the best model and the one before it.
    """
    return (3 * (2 + _moments(settings)) + 2) * _weights(settings)


def memory(settings: Settings, batch: int) -> int:
    """Bytes of memory for a step on a batch of so many pictures, about.

    The weights, their average, their gradients and Adam's moments of them; what each layer keeps of each picture,
    in the precision of the training, and 0.3 times that for the gradients under way; and the loss's two float32
    pictures.
    Measured on batches of 512 and 1,024, of 64x64 and 128x128, 32 and 64 wide, a step takes 0.7 to 1.6 times as much.
    """
    precision, _ = hardware.precision(settings.precision)
    kept = BYTES[precision] * activations(settings.image_size, settings.width, settings.activation)
    loss = 2 * 4 * 3 * settings.image_size**2
    return round((3 + _moments(settings)) * _weights(settings) + batch * (1.3 * kept + loss))


def enough_memory(settings: Settings, batch: int) -> AbstractContextManager[None]:
    """Looks for the memory of steps on batches of so many pictures, and tells the user where there is too little.

    Raises:
        UserError: on entering, or when it runs out later.
    """
    return hardware.explain_oom(
        f"training {settings.width} wide on batches of {batch:,}",
        memory(settings, batch),
        "lower CATAE_BATCH_SIZE or CATAE_WIDTH, or give it more",
    )


def _moments(settings: Settings) -> int:
    """How many numbers Adam keeps of each weight: mean, mean square, and of the latter the largest so far."""
    return 3 if settings.amsgrad else 2


def _weights(settings: Settings) -> int:
    """Bytes of the model's weights."""
    with torch.device("meta"):
        model = AutoEncoder.of(settings, settings.image_size)
    return sum(weight.nbytes for weight in model.parameters())
