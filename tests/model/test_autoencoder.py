import copy

import pytest
import torch
from torch import nn

from catae.model.autoencoder import Activation, AutoEncoder, CReLU, convolutions


@pytest.mark.parametrize(
    ("activation", "layer", "width", "count"), [("crelu", CReLU, 32, 4_331_075), ("relu", nn.ReLU, 32, 2_428_995)]
)
def test_the_layers_follow_the_recipe(activation: Activation, layer: type[nn.Module], width: int, count: int) -> None:
    model = AutoEncoder(width=width, activation=activation)
    kinds = {"conv": nn.Conv2d, "relu": layer, "transposed": nn.ConvTranspose2d, "tanh": nn.Tanh}
    encoder, decoder = ["conv", "relu"] * 4 + ["conv"], ["transposed", "relu"] * 4 + ["transposed", "tanh"]
    for layers, expected in ((model.encoder.layers, encoder), (model.decoder.layers, decoder)):
        assert len(layers) == len(expected)
        assert all(isinstance(layer, kinds[name]) for layer, name in zip(layers, expected, strict=True))
    assert sum(weights.numel() for weights in model.parameters()) == count


def test_crelu_preserves_the_signal() -> None:
    signal = torch.randn(2, 3, 4, 4)
    both = CReLU()(signal)
    assert both.min() >= 0
    assert torch.equal(both[:, :3] - both[:, 3:], signal)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("latent_dim", [1, 128])
def test_images_become_latents_of_1x1_and_images_again(size: int, latent_dim: int) -> None:
    model = AutoEncoder(size, latent_dim, width=4)
    images = torch.rand(3, 3, size, size) * 2 - 1
    assert model.encoder(images).shape == (3, latent_dim, 1, 1)
    assert model(images).shape == images.shape


def test_decoded_images_are_in_range_for_any_latent() -> None:
    model = AutoEncoder(width=4)
    images = model.decoder(torch.randn(5, 128, 1, 1) * 1000)
    assert images.abs().max() <= 1
    assert images.abs().max() > 0.9


def test_channels_last_gives_the_same_output() -> None:
    # In PyTorch 2.0, transposed convolutions of 1x1 maps in this layout gave random numbers.
    plain = AutoEncoder(width=8)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(last(images.to(memory_format=torch.channels_last)), plain(images), atol=1e-5, rtol=0)
    for layer, same in zip(convolutions(plain), convolutions(last), strict=True):
        size = 1 if isinstance(layer, nn.ConvTranspose2d) and layer.stride == (1, 1) else 4
        signal = torch.randn(2, layer.in_channels, size, size)
        torch.testing.assert_close(same(signal.to(memory_format=torch.channels_last)), layer(signal), atol=1e-5, rtol=0)
