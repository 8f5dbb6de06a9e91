from typing import Literal

import pytest
import torch

from catae.model import init as initial
from catae.model.autoencoder import AutoEncoder, convolutions
from catae.system import rng


def initialized(init: Literal["torch", "kaiming"], seed: int) -> AutoEncoder:
    model = AutoEncoder(width=8)
    initial.initialize(model, init, rng.generator(seed, "initialisation"))
    return model


@pytest.mark.parametrize("init", ["torch", "kaiming"])
def test_the_seed_alone_decides_the_weights(init: Literal["torch", "kaiming"]) -> None:
    one, other = initialized(init, 0).state_dict(), initialized(init, 1).state_dict()
    torch.manual_seed(99)
    again = initialized(init, 0).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))


def test_torch_equals_the_defaults_of_pytorch() -> None:
    actual = AutoEncoder(width=8)
    initial.initialize(actual, "torch", torch.Generator().manual_seed(5))
    torch.manual_seed(5)
    expected = AutoEncoder(width=8)
    for layer, same in zip(convolutions(actual), convolutions(expected), strict=True):
        torch.testing.assert_close(layer.weight, same.weight, rtol=0, atol=0)
        assert layer.bias is not None
        assert same.bias is not None
        torch.testing.assert_close(layer.bias, same.bias, rtol=0, atol=0)


def test_kaiming_keeps_the_variance_through_the_relus() -> None:
    model = AutoEncoder(width=32)
    initial.initialize(model, "kaiming", rng.generator(0, "initialisation"))
    noise = torch.randn(64, 3, 64, 64, generator=rng.generator(0, "noise"))
    with torch.inference_mode():
        latent = model.encoder(noise)
        before_tanh = model.decoder.layers[:-1](latent)
    # He's rule preserves the mean square from layer to layer, except for padding; the default weights lose 99 %.
    assert 0.3 < latent.square().mean() < 3
    assert 0.3 < before_tanh.square().mean() / latent.square().mean() < 3
