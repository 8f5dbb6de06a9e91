import numpy as np
import torch

from catae import batches, latent, randomness
from catae.images import ImageSet
from catae.model import AutoEncoder


def test_codes_are_those_of_the_pictures_in_their_order(drawn_set: ImageSet) -> None:
    model = AutoEncoder(32, 16, 4).eval()
    codes = latent.encode(model, batches.ordered_loader(drawn_set, [5, 2, 9]))
    alone = latent.encode(model, batches.ordered_loader(drawn_set, [2]))
    assert codes.shape == (3, 16, 1, 1)
    torch.testing.assert_close(codes[1:2], alone, atol=1e-6, rtol=1e-5)


def test_decoded_pictures_are_what_the_decoder_gives(drawn_set: ImageSet) -> None:
    model = AutoEncoder(32, 16, 4).eval()
    codes = torch.randn(300, 16, 1, 1, generator=randomness.generator(0, "codes"))
    pixels = latent.decode(model, codes)
    assert pixels.shape == (300, 32, 32, 3)
    assert np.array_equal(pixels[-1:], batches.viewable(model.decoder(codes[-1:])))


def test_a_walk_is_the_straight_line_between_the_two_codes() -> None:
    a, b = torch.randn(2, 1, 16, 1, 1, generator=randomness.generator(0, "ends"))
    walk = latent.interpolate(a, b, 50)
    assert walk.shape == (50, 16, 1, 1)
    assert torch.equal(walk[0], a[0])
    assert torch.equal(walk[-1], b[0])
    for step, alpha in ((7, 7 / 49), (42, 42 / 49)):
        torch.testing.assert_close(walk[step], ((1 - alpha) * a + alpha * b)[0])
