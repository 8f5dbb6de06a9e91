import numpy as np
import torch

from catae.data import loader, transforms
from catae.data.image_store import ImageStore
from catae.latent import space
from catae.model.autoencoder import AutoEncoder
from catae.system import rng


def test_latents_are_in_the_order_of_the_images(synthetic_images: ImageStore) -> None:
    model = AutoEncoder(32, 16, 4).eval()
    latents = space.encode(model, loader.ordered_loader(synthetic_images, [5, 2, 9]))
    alone = space.encode(model, loader.ordered_loader(synthetic_images, [2]))
    assert latents.shape == (3, 16, 1, 1)
    torch.testing.assert_close(latents[1:2], alone, atol=1e-6, rtol=1e-5)


def test_decoded_images_are_those_of_the_decoder(synthetic_images: ImageStore) -> None:
    model = AutoEncoder(32, 16, 4).eval()
    latents = torch.randn(300, 16, 1, 1, generator=rng.generator(0, "codes"))
    pixels = space.decode(model, latents)
    assert pixels.shape == (300, 32, 32, 3)
    assert np.array_equal(pixels[-1:], transforms.to_uint8(model.decoder(latents[-1:])))
