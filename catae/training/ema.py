"""The exponential moving average (EMA) of the weights, which is evaluated and kept."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from catae.model.autoencoder import AutoEncoder

Tensors = tuple[Tensor, ...] | list[Tensor]


class EMA:
    """Average a model's weights from step to step (Polyak and Juditsky 1992, https://doi.org/10.1137/0330046).

    Args:
        model: the model in training.
        decay: fraction of the average that remains at each step, in [0, 1), after a warm-up.
    """

    def __init__(self, model: AutoEncoder, decay: float) -> None:
        self.model, self.decay = model, decay
        self.averaged = AveragedModel(model, multi_avg_fn=self._lerp)

    @property
    def module(self) -> AutoEncoder:
        """The model with the averaged weights."""
        return self.averaged.module  # type: ignore[return-value]

    def restart(self) -> None:
        """Reset the average to the current weights."""
        self.module.load_state_dict(self.model.state_dict())

    def update(self) -> None:
        """Add the weights after a step to the average."""
        self.averaged.update_parameters(self.model)

    def state_dict(self) -> dict[str, object]:
        """Return everything needed to resume."""
        return self.averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self.averaged.load_state_dict(state)

    @torch.no_grad()
    def _lerp(self, averaged: Tensors, weights: Tensors, steps: Tensor | int) -> None:
        # At first the average moves faster: with a constant decay, the initial weights would dominate it for long.
        decay = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        torch._foreach_lerp_(averaged, weights, 1 - decay)
