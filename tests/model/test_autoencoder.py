import copy

import pytest
import torch
from torch import nn

from catae.model.autoencoder import Activation, AutoEncoder, CReLU, convolutions


@pytest.mark.parametrize(
    ("activation", "layer", "width", "count"), [("crelu", CReLU, 32, 4_334_915), ("relu", nn.ReLU, 32, 2_432_835)]
)
def test_the_layers_are_those_of_the_recipe(
    activation: Activation, layer: type[nn.Module], width: int, count: int
) -> None:
    model = AutoEncoder(width=width, activation=activation)
    kinds = {"conv": nn.Conv2d, "relu": layer, "transposed": nn.ConvTranspose2d, "tanh": nn.Tanh}
    encoder, decoder = ["conv", "relu"] * 4 + ["conv"], ["transposed", "relu"] * 4 + ["transposed", "tanh"]
    for layers, expected in ((model.encoder.layers, encoder), (model.decoder.layers, decoder)):
        assert len(layers) == len(expected)
        assert all(isinstance(layer, kinds[name]) for layer, name in zip(layers, expected, strict=True))
    assert sum(weights.numel() for weights in model.parameters()) == count


def test_each_signal_goes_on_with_its_negative_and_nothing_of_it_is_lost() -> None:
    signal = torch.randn(2, 3, 4, 4)
    both = CReLU()(signal)
    assert both.min() >= 0
    assert torch.equal(both[:, :3] - both[:, 3:], signal)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("latent_dim", [1, 128])
def test_a_picture_becomes_a_code_of_1x1_and_a_picture_again(size: int, latent_dim: int) -> None:
    model = AutoEncoder(size, latent_dim, width=4)
    pictures = torch.rand(3, 3, size, size) * 2 - 1
    assert model.encoder(pictures).shape == (3, latent_dim, 1, 1)
    assert model(pictures).shape == pictures.shape


def test_what_is_decoded_is_in_the_range_of_the_pictures_whatever_the_code() -> None:
    model = AutoEncoder(width=4)
    pictures = model.decoder(torch.randn(5, 128, 1, 1) * 1000)
    assert pictures.abs().max() <= 1
    assert pictures.abs().max() > 0.9


def test_the_channels_last_layout_gives_the_same_as_the_plain_one() -> None:
    # PyTorch 2.0 gave random numbers for transposed convolutions of 1x1 codes in that layout.
    plain = AutoEncoder(width=8)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(last(pictures.to(memory_format=torch.channels_last)), plain(pictures), atol=1e-5, rtol=0)
    for layer, same in zip(convolutions(plain), convolutions(last), strict=True):
        size = 1 if isinstance(layer, nn.ConvTranspose2d) and layer.stride == (1, 1) else 4
        given = torch.randn(2, layer.in_channels, size, size)
        torch.testing.assert_close(same(given.to(memory_format=torch.channels_last)), layer(given), atol=1e-5, rtol=0)
