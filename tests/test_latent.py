from pathlib import Path

import numpy as np
import pytest
import torch

from catae import batches, latent, randomness
from catae.errors import UserError
from catae.images import ImageSet
from catae.latent import Gaussian
from catae.model import AutoEncoder


def test_codes_are_those_of_the_pictures_in_their_order(drawn_set: ImageSet) -> None:
    model = AutoEncoder(32, 16, 4).eval()
    codes = latent.encode(model, batches.ordered_loader(drawn_set, [5, 2, 9]))
    alone = latent.encode(model, batches.ordered_loader(drawn_set, [2]))
    assert codes.shape == (3, 16, 1, 1)
    torch.testing.assert_close(codes[1:2], alone, atol=1e-6, rtol=1e-5)


def test_decoded_pictures_are_what_the_decoder_gives(drawn_set: ImageSet) -> None:
    model = AutoEncoder(32, 16, 4).eval()
    codes = latent.randn(300, 16, randomness.generator(0, "samples"))
    pixels = latent.decode(model, codes)
    assert pixels.shape == (300, 32, 32, 3)
    assert np.array_equal(pixels[-1:], batches.viewable(model.decoder(codes[-1:])))


def test_random_latents_are_as_the_recipe_has_them_and_the_first_dont_depend_on_the_count() -> None:
    seven, three = (latent.randn(count, 128, randomness.generator(3, "samples")) for count in (7, 3))
    expected = torch.randn(1, 128, 1, 1, generator=randomness.generator(3, "samples"))
    assert torch.equal(seven[:1], expected)
    assert torch.equal(seven[:3], three)


def test_a_fitted_gaussian_gives_back_mean_and_covariance(tmp_path: Path) -> None:
    generator = randomness.generator(0, "codes")
    mixing = torch.randn(5, 5, generator=generator)
    codes = (torch.randn(20_000, 5, generator=generator) @ mixing.T + torch.arange(5.0))[..., None, None]
    gaussian = Gaussian.fit(codes)
    torch.testing.assert_close(gaussian.factor @ gaussian.factor.T, codes.flatten(1).T.cov(), atol=1e-3, rtol=1e-3)

    samples = gaussian.shape(latent.randn(20_000, 5, generator)).flatten(1)
    torch.testing.assert_close(samples.mean(0), torch.arange(5.0), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.T.cov(), mixing @ mixing.T, atol=0.4, rtol=0.1)

    gaussian.save(tmp_path / "prior.safetensors")
    loaded = Gaussian.load(tmp_path / "prior.safetensors")
    assert torch.equal(loaded.mean, gaussian.mean)
    assert torch.equal(loaded.factor, gaussian.factor)


def test_fewer_pictures_than_dimensions_still_give_a_gaussian() -> None:
    for count in (1, 3):
        codes = torch.randn(count, 50, 1, 1, generator=randomness.generator(0, "codes"))
        gaussian = Gaussian.fit(codes)
        assert gaussian.shape(latent.randn(4, 50, randomness.generator(0, "samples"))).isfinite().all()
        assert torch.linalg.matrix_rank(gaussian.factor, rtol=1e-4) == count - 1


def test_what_is_no_prior_is_told(tmp_path: Path) -> None:
    (tmp_path / "prior.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="is no prior of catae's"):
        Gaussian.load(tmp_path / "prior.safetensors")


def test_a_walk_is_the_straight_line_between_the_two_codes() -> None:
    a, b = torch.randn(2, 1, 16, 1, 1, generator=randomness.generator(0, "ends"))
    walk = latent.interpolate(a, b, 50)
    assert walk.shape == (50, 16, 1, 1)
    assert torch.equal(walk[0], a[0])
    assert torch.equal(walk[-1], b[0])
    for step, alpha in ((7, 7 / 49), (42, 42 / 49)):
        torch.testing.assert_close(walk[step], ((1 - alpha) * a + alpha * b)[0])
