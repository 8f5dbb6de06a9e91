import copy

import pytest
import torch

from catae.data import transforms
from catae.data.image_store import ImageStore
from catae.latent import interpolation, whitening
from catae.model.autoencoder import AutoEncoder


@pytest.fixture(scope="module")
def pictures(drawn_set: ImageStore) -> torch.Tensor:
    return transforms.normalize(drawn_set.take(range(120)))


def net() -> AutoEncoder:
    torch.manual_seed(0)
    model = AutoEncoder(32, latent_dim=16, width=4)
    torch.nn.init.normal_(model.encoder.layers[-1].bias, 3.0)  # type: ignore[arg-type] # codes far from 0
    return model.eval()


@torch.inference_mode()
def folded(model: AutoEncoder, pictures: torch.Tensor) -> tuple[AutoEncoder, torch.Tensor]:
    other = copy.deepcopy(model)
    return other, whitening.fold(other, model.encoder(pictures))


@torch.inference_mode()
def test_codes_of_the_train_pictures_have_mean_0_and_covariance_1(pictures: torch.Tensor) -> None:
    model, codes = folded(net(), pictures)
    torch.testing.assert_close(model.encoder(pictures), codes, atol=1e-2, rtol=0)
    for points in (codes.flatten(1), model.encoder(pictures).flatten(1)):
        torch.testing.assert_close(points.mean(0), torch.zeros(16), atol=1e-2, rtol=0)
        torch.testing.assert_close(points.T.cov(), torch.eye(16), atol=1e-2, rtol=0)


@torch.inference_mode()
def test_no_restoration_and_no_straight_walk_changes(pictures: torch.Tensor) -> None:
    model = net()
    other, _ = folded(model, pictures)
    torch.testing.assert_close(other(pictures), model(pictures), atol=1e-4, rtol=0)
    walks = [net.decoder(interpolation.linear(*net.encoder(pictures[:2]).split(1), steps=7)) for net in (model, other)]
    torch.testing.assert_close(walks[1], walks[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_noise_decodes_to_what_a_gaussian_of_the_old_codes_would_have_given(pictures: torch.Tensor) -> None:
    model = net()
    other, _ = folded(model, pictures)
    noise = torch.randn(4000, 16, 1, 1, generator=torch.Generator().manual_seed(1))
    old = model.encoder(pictures).flatten(1)
    shaped = torch.distributions.MultivariateNormal(old.mean(0), old.T.cov() + 1e-9 * torch.eye(16)).sample((4000,))  # type: ignore[no-untyped-call]
    ours, theirs = other.decoder(noise), model.decoder(shaped[..., None, None])
    assert (ours.mean(0) - theirs.mean(0)).abs().mean() < 0.1 * theirs.std(0).mean()
    torch.testing.assert_close(ours.std(0).mean(), theirs.std(0).mean(), rtol=0.05, atol=0)


@pytest.mark.parametrize("count", [1, 3])
@torch.inference_mode()
def test_directions_in_which_nothing_varies_are_left_alone(pictures: torch.Tensor, count: int) -> None:
    model = net()
    other, codes = folded(model, pictures[:count])
    assert codes.isfinite().all()
    torch.testing.assert_close(other(pictures[:count]), model(pictures[:count]), atol=1e-4, rtol=0)
