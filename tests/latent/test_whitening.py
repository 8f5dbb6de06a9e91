import pytest
import torch

from catae.data import transforms
from catae.data.image_store import ImageStore
from catae.latent import interpolation, whitening
from catae.model.autoencoder import Activation, AutoEncoder


@pytest.fixture(scope="module")
def images(synthetic_images: ImageStore) -> torch.Tensor:
    return transforms.normalize(synthetic_images.take(range(120)))


def make_model(activation: Activation = "relu") -> AutoEncoder:
    torch.manual_seed(0)
    model = AutoEncoder(32, latent_dim=16, width=4, activation=activation)
    torch.nn.init.normal_(model.encoder.layers[-1].bias, 3.0)  # type: ignore[arg-type] # latents far from 0
    return model.eval()


@torch.inference_mode()
def whitened(model: AutoEncoder, images: torch.Tensor) -> tuple[AutoEncoder, torch.Tensor]:
    return whitening.fold_whitening(model, model.encoder(images))


@torch.inference_mode()
def test_train_latents_have_mean_0_and_covariance_1(images: torch.Tensor) -> None:
    model, latents = whitened(make_model(), images)
    torch.testing.assert_close(model.encoder(images), latents, atol=1e-2, rtol=0)
    for points in (latents.flatten(1), model.encoder(images).flatten(1)):
        torch.testing.assert_close(points.mean(0), torch.zeros(16), atol=1e-2, rtol=0)
        torch.testing.assert_close(points.T.cov(), torch.eye(16), atol=1e-2, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "crelu"])
@torch.inference_mode()
def test_reconstructions_and_linear_interpolations_stay_the_same(images: torch.Tensor, activation: Activation) -> None:
    model = make_model(activation)
    other, _ = whitened(model, images)
    torch.testing.assert_close(other(images), model(images), atol=1e-4, rtol=0)
    paths = [one.decoder(interpolation.linear(*one.encoder(images[:2]).split(1), steps=7)) for one in (model, other)]
    torch.testing.assert_close(paths[1], paths[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_normal_samples_decode_as_those_of_the_gaussian_before_whitening(images: torch.Tensor) -> None:
    model = make_model()
    other, _ = whitened(model, images)
    noise = torch.randn(4000, 16, 1, 1, generator=torch.Generator().manual_seed(1))
    old = model.encoder(images).flatten(1)
    shaped = torch.distributions.MultivariateNormal(old.mean(0), old.T.cov() + 1e-9 * torch.eye(16)).sample((4000,))  # type: ignore[no-untyped-call]
    actual, expected = other.decoder(noise), model.decoder(shaped[..., None, None])
    assert (actual.mean(0) - expected.mean(0)).abs().mean() < 0.1 * expected.std(0).mean()
    torch.testing.assert_close(actual.std(0).mean(), expected.std(0).mean(), rtol=0.05, atol=0)


@pytest.mark.parametrize("count", [1, 3])
@torch.inference_mode()
def test_constant_directions_are_not_amplified(images: torch.Tensor, count: int) -> None:
    model = make_model()
    other, latents = whitened(model, images[:count])
    assert latents.isfinite().all()
    torch.testing.assert_close(other(images[:count]), model(images[:count]), atol=1e-4, rtol=0)
