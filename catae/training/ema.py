"""The moving average of a net's weights, which is what is evaluated and kept, and the way back to it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from catae.model.autoencoder import AutoEncoder

SPIKE = 2  # times a batch's usual loss: swings to 1.3 times it came back by themselves, one to 1.6 times didn't
SETTLED = 100  # steps: Adam's first ones, which are as long for all weights, take a linear net to 5 times its loss
Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """Follows the weights of a net from step to step, and takes them back to it where they have got lost.

    In a net that is nearly linear, all layers swing together at times, each step further than the one before, until
    each pixel is black or white, and no gradient leads back. Large language models are taken back to an earlier state
    then (Chowdhery et al. 2022, section 5.1, https://arxiv.org/abs/2204.02311).

    Args:
        model: whose weights they are.
        optimizer: moves them; its momentum ends where they go back.
        keeps: the share of itself that the average keeps at each step, later on; from 0 to below 1.
    """

    def __init__(self, model: AutoEncoder, optimizer: Optimizer, keeps: float) -> None:
        self.model, self.optimizer, self.keeps = model, optimizer, keeps
        self.averaged = AveragedModel(model, multi_avg_fn=self._move)
        self.usual_loss = 0.0  # of a batch; 0 where none is known

    @property
    def module(self) -> AutoEncoder:
        """The net with the averaged weights."""
        return self.averaged.module  # type: ignore[return-value]

    def restart(self) -> None:
        """Begins with the weights as they are now."""
        self.module.load_state_dict(self.model.state_dict())

    def follow(self, loss: float) -> bool:
        """Takes in the weights after a step, or takes them back, if the step's batch had lost what was learned.

        Args:
            loss: of the batch, before the step.

        Returns:
            Whether the weights have gone back.
        """
        steps = int(self.averaged.n_averaged)
        if steps > SETTLED and loss > SPIKE * self.usual_loss > 0:
            self.model.load_state_dict(self.module.state_dict())
            for moments in self.optimizer.state.values():
                moments["exp_avg"].zero_()
            self.usual_loss = 0.0  # it is what comes next, be it as bad, or they would go back for ever
            return True
        self.usual_loss += (loss - self.usual_loss) * (self._pace(steps) if self.usual_loss else 1)
        self.averaged.update_parameters(self.model)
        return False

    def state_dict(self) -> dict[str, object]:
        """All that going on needs."""
        return {"averaged": self.averaged.state_dict(), "usual_loss": self.usual_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self.averaged.load_state_dict(state["averaged"])
        self.usual_loss = state["usual_loss"]

    @torch.no_grad()
    def _move(self, averaged: Tensors, weights: Tensors, steps: Tensor | int) -> None:
        torch._foreach_lerp_(averaged, weights, self._pace(int(steps)))

    def _pace(self, steps: int) -> float:
        """Which part of the way to what is new an average moves: a tenth at first, and ever less to 1 - keeps.

        An average that forgot slowly from the start would be of the first weights for long.
        """
        return 1 - min(self.keeps, (1 + steps) / (10 + steps))
