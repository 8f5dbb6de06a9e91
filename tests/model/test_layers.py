import copy

import pytest
import torch
from torch import Tensor, nn

from catae.model.layers import Downsample, FromLatent, Pointwise, ToLatent, Upsample

PLAIN = {
    Downsample: nn.Conv2d, ToLatent: nn.Conv2d,
    Pointwise: nn.ConvTranspose2d, FromLatent: nn.ConvTranspose2d, Upsample: nn.ConvTranspose2d,
}  # fmt: skip
# Each layer with the side of its input: both computations of the weight gradient, and the 3 channels of images.
CASES = [
    (Downsample, 3, 5, 64), (Downsample, 6, 8, 16), (Downsample, 6, 8, 8), (ToLatent, 6, 5, 4),
    (Pointwise, 5, 6, 1), (FromLatent, 5, 6, 1), (Upsample, 8, 6, 4), (Upsample, 8, 6, 8), (Upsample, 5, 3, 32),
]  # fmt: skip


def computed(layer: nn.Module, signal: Tensor) -> dict[str, Tensor]:
    """Return the output of a layer, and the gradients of a weighted sum of it."""
    signal = signal.detach().requires_grad_()
    out = layer(signal)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (out * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": out.detach(), "input": signal.grad, **gradients}  # type: ignore[dict-item]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("kind", "narrow", "wide", "side"), CASES)
def test_outputs_and_gradients_equal_those_of_pytorch(
    kind: type[nn.Conv2d], narrow: int, wide: int, side: int, channels_last: bool
) -> None:
    layer = kind(narrow, wide).double()
    signal = torch.randn(3, narrow, side, side, dtype=torch.float64)
    plain: nn.Module = PLAIN[kind](narrow, wide, layer.kernel_size, stride=layer.stride, padding=layer.padding).double()
    plain.load_state_dict(layer.state_dict())
    if channels_last:
        layer, signal = layer.to(memory_format=torch.channels_last), signal.to(memory_format=torch.channels_last)
    actual, expected = computed(layer, signal), computed(plain, signal.contiguous())
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=1e-11, check_stride=False)


@pytest.mark.parametrize(("kind", "narrow", "wide", "side"), CASES)
def test_bfloat16_inputs_keep_float32_weights_and_gradients(
    kind: type[nn.Conv2d], narrow: int, wide: int, side: int
) -> None:
    layer = kind(narrow, wide)
    signal = torch.randn(3, narrow, side, side)
    exact, rounded = computed(layer, signal), computed(copy.deepcopy(layer), signal.bfloat16())
    assert rounded["output"].dtype == torch.bfloat16
    for name in ("weight", "bias"):
        assert rounded[name].dtype == torch.float32
    for name, tensor in exact.items():
        # bfloat16 has 8 significant bits: values, and sums of them, are within about 0.4 %.
        error = (rounded[name].float() - tensor).norm() / tensor.norm()
        assert error < 0.02, name
