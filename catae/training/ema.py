"""Keep an exponential moving average (EMA) of the weights, and roll back to it when the loss spikes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from catae.model.autoencoder import AutoEncoder

SPIKE = 2  # times the usual loss of a batch: spikes of 1.3 times recovered by themselves, one of 1.6 times did not
WARMUP = 100  # steps without rollback: Adam's first steps can raise a linear network's loss to 5 times its value
Tensors = tuple[Tensor, ...] | list[Tensor]


class EMA:
    """Average a model's weights from step to step, and reset them to the average when the loss spikes.

    In a nearly linear network, all layers can oscillate together with growing amplitude, until every pixel is black or
    white and no gradient leads back. Large language models restart from an earlier checkpoint then (Chowdhery et al.
    2022, section 5.1, https://arxiv.org/abs/2204.02311).

    Args:
        model: the model in training.
        optimizer: of its weights; a rollback resets its momentum.
        decay: fraction of the average that remains at each step, in [0, 1), after a warm-up.
    """

    def __init__(self, model: AutoEncoder, optimizer: Optimizer, decay: float) -> None:
        self.model, self.optimizer, self.decay = model, optimizer, decay
        self.averaged = AveragedModel(model, multi_avg_fn=self._lerp)
        self.usual_loss = 0.0  # moving average of the batch loss; 0 if unknown

    @property
    def module(self) -> AutoEncoder:
        """The model with the averaged weights."""
        return self.averaged.module  # type: ignore[return-value]

    def restart(self) -> None:
        """Reset the average to the current weights."""
        self.module.load_state_dict(self.model.state_dict())

    def update(self, loss: float) -> bool:
        """Add the weights after a step to the average, or roll back to it if the loss spiked.

        Args:
            loss: of the step's batch, before the step.

        Returns:
            Whether the weights were rolled back.
        """
        steps = int(self.averaged.n_averaged)
        if steps > WARMUP and loss > SPIKE * self.usual_loss > 0:
            self.model.load_state_dict(self.module.state_dict())
            for moments in self.optimizer.state.values():
                moments["exp_avg"].zero_()
            self.usual_loss = 0.0  # learned again, even if it stays high: otherwise every step would roll back
            return True
        self.usual_loss += (loss - self.usual_loss) * (self._rate(steps) if self.usual_loss else 1)
        self.averaged.update_parameters(self.model)
        return False

    def state_dict(self) -> dict[str, object]:
        """Return everything needed to resume."""
        return {"averaged": self.averaged.state_dict(), "usual_loss": self.usual_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self.averaged.load_state_dict(state["averaged"])
        self.usual_loss = state["usual_loss"]

    @torch.no_grad()
    def _lerp(self, averaged: Tensors, weights: Tensors, steps: Tensor | int) -> None:
        torch._foreach_lerp_(averaged, weights, self._rate(int(steps)))

    def _rate(self, steps: int) -> float:
        """Return how far an average moves towards a new value: from 0.9 at first down to 1 - decay.

        With a constant `decay`, the initial weights would dominate the average for a long time.
        """
        return 1 - min(self.decay, (1 + steps) / (10 + steps))
