import copy

import pytest
import torch
from torch import Tensor, nn

from catae.model.layers import Downsample, FromLatent, ToLatent, Upsample

PLAIN = {Downsample: nn.Conv2d, ToLatent: nn.Conv2d, Upsample: nn.ConvTranspose2d, FromLatent: nn.ConvTranspose2d}
# Each kind of layer, with the side of what goes in: both ways to the gradient of the weights, and pictures' 3 channels.
CASES = [
    (Downsample, 3, 5, 64), (Downsample, 6, 8, 16), (Downsample, 6, 8, 8), (ToLatent, 6, 5, 4),
    (FromLatent, 5, 6, 1), (Upsample, 8, 6, 4), (Upsample, 8, 6, 8), (Upsample, 5, 3, 32),
]  # fmt: skip


class BiasAtEachPlace(nn.ConvTranspose2d):
    """What PyTorch has no layer for: a transposed convolution whose bias is not the same everywhere."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__(narrow, wide, 4, bias=False)
        self.bias = nn.Parameter(torch.zeros(wide, 4, 4))

    def forward(self, code: Tensor, output_size: list[int] | None = None) -> Tensor:
        return nn.functional.conv_transpose2d(code, self.weight) + self.bias


def computed(layer: nn.Module, given: Tensor) -> dict[str, Tensor]:
    """What comes out of a layer, and the gradients of an uneven sum of it."""
    given = given.detach().requires_grad_()
    out = layer(given)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (out * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": out.detach(), "input": given.grad, **gradients}  # type: ignore[dict-item]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("kind", "narrow", "wide", "side"), CASES)
def test_a_layer_and_its_gradients_are_those_of_pytorchs_own(
    kind: type[nn.Conv2d], narrow: int, wide: int, side: int, channels_last: bool
) -> None:
    layer = kind(narrow, wide).double()
    given = torch.randn(3, narrow, side, side, dtype=torch.float64)
    plain: nn.Module = PLAIN[kind](narrow, wide, 4, stride=layer.stride, padding=layer.padding).double()
    if kind is FromLatent:
        nn.init.normal_(layer.bias)  # type: ignore[arg-type]
        plain = BiasAtEachPlace(narrow, wide).double()
    plain.load_state_dict(layer.state_dict())
    if channels_last:
        layer, given = layer.to(memory_format=torch.channels_last), given.to(memory_format=torch.channels_last)
    ours, theirs = computed(layer, given), computed(plain, given.contiguous())
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-11, check_stride=False)


@pytest.mark.parametrize(("kind", "narrow", "wide", "side"), CASES)
def test_bfloat16_is_computed_with_weights_and_gradients_of_float32(
    kind: type[nn.Conv2d], narrow: int, wide: int, side: int
) -> None:
    layer = kind(narrow, wide)
    given = torch.randn(3, narrow, side, side)
    exact, rounded = computed(layer, given), computed(copy.deepcopy(layer), given.bfloat16())
    assert rounded["output"].dtype == torch.bfloat16
    for name in ("weight", "bias"):
        assert rounded[name].dtype == torch.float32
    for name, tensor in exact.items():
        # bfloat16 keeps 8 bits: each number is within 0.4 % of itself, and sums of them within about as much.
        error = (rounded[name].float() - tensor).norm() / tensor.norm()
        assert error < 0.02, name
