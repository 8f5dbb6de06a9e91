"""What TensorBoard shows of the training: a few test pictures restored, and a few latents decoded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catae.data import transforms
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.data.transforms import to_uint8
from catae.model.autoencoder import AutoEncoder
from catae.settings import Settings
from catae.system import rng
from catae.training import tensorboard

EVERY = 5  # epochs; a look takes 0.1 s, so it costs nothing
PICTURES = 32


@dataclass(frozen=True)
class Watch:
    """The pictures and the latents that are looked at, the same from epoch to epoch."""

    pictures: Tensor
    noise: Tensor

    @classmethod
    def of(cls, images: ImageStore, split: Split, settings: Settings) -> "Watch":
        """The first test pictures, and noise that stays the same from epoch to epoch."""
        generator = rng.generator(settings.seed, "noise to watch")
        noise = torch.randn(PICTURES, settings.latent_dim, 1, 1, generator=generator)
        return cls(transforms.normalize(images.take(split.test[:PICTURES])), noise)

    @torch.inference_mode()
    def write(self, model: AutoEncoder, epoch: int, log: tensorboard.EventLog) -> None:
        """Shows them as the model makes them at the end of `epoch`: the first one, and each fifth."""
        if epoch != 1 and epoch % EVERY:
            return
        model.eval()
        log.pictures(epoch, "restored", to_uint8(model(self.pictures)))
        log.pictures(epoch, "noise_decoded", to_uint8(model.decoder(self.noise)))
