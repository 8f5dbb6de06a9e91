from typing import Literal

import pytest
import torch

from catae.model import init as initial
from catae.model.autoencoder import AutoEncoder, convolutions
from catae.system import rng


def initialised(init: Literal["torch", "kaiming"], seed: int) -> AutoEncoder:
    model = AutoEncoder(width=8)
    initial.initialize(model, init, rng.generator(seed, "initialisation"))
    return model


@pytest.mark.parametrize("init", ["torch", "kaiming"])
def test_the_seed_alone_decides_the_weights(init: Literal["torch", "kaiming"]) -> None:
    one, other = initialised(init, 0).state_dict(), initialised(init, 1).state_dict()
    torch.manual_seed(99)
    again = initialised(init, 0).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))


def test_torch_is_what_pytorchs_layers_start_with() -> None:
    ours = AutoEncoder(width=8)
    initial.initialize(ours, "torch", torch.Generator().manual_seed(5))
    torch.manual_seed(5)
    theirs = AutoEncoder(width=8)
    for layer, same in zip(convolutions(ours), convolutions(theirs), strict=True):
        torch.testing.assert_close(layer.weight, same.weight, rtol=0, atol=0)
        assert layer.bias is not None
        assert same.bias is not None
        torch.testing.assert_close(layer.bias, same.bias, rtol=0, atol=0)


def test_kaiming_keeps_the_variance_through_the_relus() -> None:
    model = AutoEncoder(width=32)
    initial.initialize(model, "kaiming", rng.generator(0, "initialisation"))
    noise = torch.randn(64, 3, 64, 64, generator=rng.generator(0, "noise"))
    with torch.inference_mode():
        code = model.encoder(noise)
        before_tanh = model.decoder.layers[:-1](code)
    # He's rule keeps the mean square, from layer to layer, up to what padding takes: default weights lose 99 %.
    assert 0.3 < code.square().mean() < 3
    assert 0.3 < before_tanh.square().mean() / code.square().mean() < 3
