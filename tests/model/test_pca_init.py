import copy

import pytest
import torch
from sklearn.decomposition import PCA, TruncatedSVD
from torch import nn
from torch.nn import functional

from catae.data import transforms
from catae.data.image_store import ImageStore
from catae.model import pca_init
from catae.model.autoencoder import Activation, AutoEncoder, convolutions

PAIRS = {"crelu": (8, 16, 32), "relu": (4, 8, 16)}  # for 8 filters, doubled at each size


@pytest.fixture(scope="module")
def images(synthetic_images: ImageStore) -> torch.Tensor:
    return transforms.normalize(synthetic_images.take(range(120)))


@pytest.fixture(scope="module", params=["crelu", "relu"])
def model(images: torch.Tensor, request: pytest.FixtureRequest) -> AutoEncoder:
    return initialized(images, request.param)


def initialized(images: torch.Tensor, activation: Activation) -> AutoEncoder:
    model = AutoEncoder(images.shape[-1], latent_dim=16, width=8, activation=activation)
    pca_init.initialize(model, images)
    return model


@torch.inference_mode()
def test_the_model_is_linear_at_first(model: AutoEncoder, images: torch.Tensor) -> None:
    latents = model.encoder(images)
    for part, signal in ((model.encoder, images), (model.decoder.layers[:-1], latents)):
        a, b = signal[:4], signal[4:8]
        torch.testing.assert_close(part(0.3 * a + 0.7 * b), 0.3 * part(a) + 0.7 * part(b), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_balancing_reduces_large_signals_and_keeps_the_function(
    model: AutoEncoder, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca_init, "_balance_layers", lambda *_: None)
    even_channels = initialized(images, model.activation)
    monkeypatch.setattr(pca_init, "_balance_channels", lambda *_: None)
    unbalanced = initialized(images, model.activation)
    torch.testing.assert_close(model(images), unbalanced(images), atol=1e-4, rtol=0)
    for one, largest in ((even_channels, 1.01), (unbalanced, float("inf"))):
        signal = one.encoder.layers[0](images).square().mean((0, 2, 3)).sqrt()
        assert signal.max() < largest
    assert signal.max() > 1.5


def test_a_step_of_adam_moves_all_layers_about_equally_far(
    model: AutoEncoder, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca_init, "_balance", lambda *_: None)
    unbalanced = initialized(images, model.activation)
    steps, unbalanced_steps = first_steps(model, images), first_steps(unbalanced, images)
    assert max(steps) < 0.7 * max(unbalanced_steps)
    assert max(steps) / min(steps) < 3.2  # 2.5 here
    assert max(unbalanced_steps) / min(unbalanced_steps) > 4  # 7.0 with CReLU, 4.7 with ReLU


def first_steps(model: AutoEncoder, images: torch.Tensor) -> list[float]:
    """Return how far Adam's first step moves the output of each layer, relative to it, with the same input."""
    model = copy.deepcopy(model)
    before, signal = [], images
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        inputs, signal = signal, layer(signal)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            before.append((layer, inputs.detach(), signal.detach()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    functional.l1_loss(signal, images).backward()
    optimizer.step()
    with torch.no_grad():
        return [((layer(inputs) - out).norm() / out.norm()).item() for layer, inputs, out in before]


@pytest.mark.parametrize("activation", ["crelu", "relu"])
@torch.inference_mode()
def test_layers_span_the_principal_components_of_their_input(
    activation: Activation, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with scikit-learn layer by layer, before balancing."""
    monkeypatch.setattr(pca_init, "_balance", lambda *_: None)
    model = initialized(images, activation)
    signal = images
    *downsamples, to_latent = convolutions(model.encoder)
    for count, layer in zip(PAIRS[model.activation], downsamples, strict=True):
        actual = layer.weight[:count, : signal.shape[1]].flatten(1)
        windows = functional.unfold(signal, 4, stride=2, padding=1).transpose(1, 2).flatten(0, 1)
        assert same_span(actual, torch.from_numpy(PCA(count, svd_solver="full").fit(windows.numpy()).components_))
        signal = functional.conv2d(signal, layer.weight[:count, : signal.shape[1]], layer.bias[:count], 2, 1)  # type: ignore[index]
        assert signal.square().mean() == pytest.approx(1, abs=0.01)
    exact = TruncatedSVD(16, algorithm="arpack", random_state=0).fit(signal.flatten(1).numpy())  # not centred
    assert same_span(to_latent.weight[:, : signal.shape[1]].flatten(1), torch.from_numpy(exact.components_))
    latents = model.encoder(images).flatten(1)
    torch.testing.assert_close(latents.T @ latents / len(latents), 9 * torch.eye(16), atol=1e-2, rtol=0)


def same_span(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether the rows of both span the same subspace, up to rounding."""
    one, other = (torch.linalg.qr(rows.double().T).Q for rows in (a, b))
    return bool((one @ one.T - other @ other.T).norm() < 1e-2 * len(a) ** 0.5)


@torch.inference_mode()
def test_the_untrained_model_reconstructs_better_than_the_mean_image(model: AutoEncoder, images: torch.Tensor) -> None:
    error = (model(images) - images).abs().mean()
    assert error < 0.6 * (images.mean(0) - images).abs().mean()


def test_the_same_images_give_the_same_weights(model: AutoEncoder, images: torch.Tensor) -> None:
    again = initialized(images, model.activation).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_it_needs_paired_channels_and_enough_directions() -> None:
    def possible(activation: Activation, width: int, images: int = 100) -> bool:
        return pca_init.possible(AutoEncoder(latent_dim=16, width=width, activation=activation), images)

    assert possible("crelu", 8, images=16)
    assert not possible("crelu", 8, images=15)
    assert possible("crelu", 3)
    assert not possible("relu", 3)
    assert possible("crelu", 48)
    assert not possible("crelu", 49)
    assert possible("relu", 96)
    assert not possible("relu", 98)


@torch.inference_mode()
def test_many_latent_dimensions_need_more_images(synthetic_images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca_init, "IMAGES", 16)
    model = AutoEncoder(32, latent_dim=24, width=8)
    images = transforms.normalize(synthetic_images.take(range(120)))
    assert pca_init.initialize(model, images[: pca_init.sample_size(model)])
    latents = model.encoder(images).flatten(1)
    assert torch.linalg.matrix_rank(latents - latents.mean(0)) >= 23  # 24 images span no more
