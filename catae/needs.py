"""What a training needs of the disk and of the memory, looked at before it begins."""

from contextlib import AbstractContextManager

import torch

from catae import machine
from catae.model import AutoEncoder, activations
from catae.settings import Settings


def room(settings: Settings) -> int:
    """Bytes on the disk for the states of a training.

    The last state, the best one, the one before each, and the next while it is written: each has the weights and
    Adam's two moments of them.
    """
    return 5 * 3 * _weights(settings)


def memory(settings: Settings, batch: int) -> int:
    """Bytes of memory for a step on a batch of so many pictures, about.

    The weights, their gradients and Adam's two moments of them; and what each layer keeps of each picture, float32.
    Measured, a step takes 1.25 to 1.4 times the latter, for the gradients under way.
    """
    kept = 4 * activations(settings.image_size, settings.width)
    return round(4 * _weights(settings) + 1.3 * batch * kept)


def enough_memory(settings: Settings, batch: int) -> AbstractContextManager[None]:
    """Looks for the memory of steps on batches of so many pictures, and tells the user where there is too little.

    Raises:
        UserError: on entering, or when it runs out later.
    """
    return machine.telling_of_memory(
        f"training {settings.width} wide on batches of {batch:,}",
        memory(settings, batch),
        "lower CATAE_BATCH_SIZE or CATAE_WIDTH, or give it more",
    )


def _weights(settings: Settings) -> int:
    """Bytes of the model's weights."""
    with torch.device("meta"):
        model = AutoEncoder(settings.image_size, settings.latent_dim, settings.width)
    return sum(weight.nbytes for weight in model.parameters())
