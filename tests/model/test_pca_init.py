import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn import functional

from catae.data import transforms
from catae.data.image_store import ImageStore
from catae.model import pca_init
from catae.model.autoencoder import Activation, AutoEncoder, convolutions

PAIRS = {"crelu": (8, 16, 32), "relu": (4, 8, 16)}  # of 8 filters, and twice as many at each further size


@pytest.fixture(scope="module")
def pictures(drawn_set: ImageStore) -> torch.Tensor:
    return transforms.normalize(drawn_set.take(range(120)))


@pytest.fixture(scope="module", params=["crelu", "relu"])
def model(pictures: torch.Tensor, request: pytest.FixtureRequest) -> AutoEncoder:
    return initialised(pictures, request.param)


def initialised(pictures: torch.Tensor, activation: Activation) -> AutoEncoder:
    model = AutoEncoder(pictures.shape[-1], latent_dim=16, width=8, activation=activation)
    pca_init.initialize(model, pictures)
    return model


@torch.inference_mode()
def test_the_net_is_linear_at_first(model: AutoEncoder, pictures: torch.Tensor) -> None:
    codes = model.encoder(pictures)
    for part, given in ((model.encoder, pictures), (model.decoder.layers[:-1], codes)):
        a, b = given[:4], given[4:8]
        torch.testing.assert_close(part(0.3 * a + 0.7 * b), 0.3 * part(a) + 0.7 * part(b), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_large_signals_are_made_even_without_a_change_of_the_function(
    model: AutoEncoder, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca_init, "_balance", lambda *_: None)
    uneven = initialised(pictures, model.activation)
    torch.testing.assert_close(model(pictures), uneven(pictures), atol=1e-4, rtol=0)
    for net, largest in ((model, 1.01), (uneven, float("inf"))):
        signal = net.encoder.layers[0](pictures).square().mean((0, 2, 3)).sqrt()
        assert signal.max() < largest
    assert signal.max() > 1.5


@pytest.mark.parametrize("activation", ["crelu", "relu"])
@torch.inference_mode()
def test_its_layers_span_what_principal_components_of_their_input_span(
    activation: Activation, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As scikit-learn finds them, layer by layer; before large signals are made smaller."""
    monkeypatch.setattr(pca_init, "_balance", lambda *_: None)
    model = initialised(pictures, activation)
    signal = pictures
    *halvings, to_code = convolutions(model.encoder)
    for count, layer in zip(PAIRS[model.activation], halvings, strict=True):
        ours = layer.weight[:count, : signal.shape[1]].flatten(1)
        seen = functional.unfold(signal, 4, stride=2, padding=1).transpose(1, 2).flatten(0, 1)
        assert same_span(ours, torch.from_numpy(PCA(count, svd_solver="full").fit(seen.numpy()).components_))
        signal = functional.conv2d(signal, layer.weight[:count, : signal.shape[1]], layer.bias[:count], 2, 1)  # type: ignore[index]
        assert signal.square().mean() == pytest.approx(1, abs=0.01)
    found = PCA(16, svd_solver="full").fit(signal.flatten(1).numpy())
    assert same_span(to_code.weight[:, : signal.shape[1]].flatten(1), torch.from_numpy(found.components_))
    codes = model.encoder(pictures).flatten(1)
    torch.testing.assert_close(codes.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(codes.T @ codes / len(codes), 9 * torch.eye(16), atol=1e-2, rtol=0)


def same_span(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether the rows of both span the same, but for a thousandth."""
    one, other = (torch.linalg.qr(rows.double().T).Q for rows in (ours, theirs))
    return bool((one @ one.T - other @ other.T).norm() < 1e-2 * len(ours) ** 0.5)


@torch.inference_mode()
def test_it_restores_pictures_better_than_the_mean_picture_before_any_training(
    model: AutoEncoder, pictures: torch.Tensor
) -> None:
    error = (model(pictures) - pictures).abs().mean()
    assert error < 0.6 * (pictures.mean(0) - pictures).abs().mean()


def test_the_same_pictures_give_the_same_bytes(model: AutoEncoder, pictures: torch.Tensor) -> None:
    again = initialised(pictures, model.activation).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_it_is_possible_only_with_a_partner_for_each_channel_and_a_direction_for_each_pair() -> None:
    def possible(activation: Activation, width: int, pictures: int = 100) -> bool:
        return pca_init.possible(AutoEncoder(latent_dim=16, width=width, activation=activation), pictures)

    assert possible("crelu", 8, pictures=16)
    assert not possible("crelu", 8, pictures=15)
    assert possible("crelu", 3)
    assert not possible("relu", 3)
    assert possible("crelu", 48)
    assert not possible("crelu", 49)
    assert possible("relu", 96)
    assert not possible("relu", 98)


@torch.inference_mode()
def test_a_code_of_more_numbers_than_the_usual_pictures_is_learned_from_more(
    drawn_set: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca_init, "IMAGES", 16)
    model = AutoEncoder(32, latent_dim=24, width=8)
    images = transforms.normalize(drawn_set.take(range(120)))
    assert pca_init.initialize(model, images[: pca_init.sample_size(model)])
    codes = model.encoder(images).flatten(1)
    assert torch.linalg.matrix_rank(codes - codes.mean(0)) >= 23  # 24 pictures span no more
