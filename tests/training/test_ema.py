"""Test the moving average of the weights."""

import pytest
import torch

from catae.data import loader
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.settings import Settings
from catae.training import trainer
from catae.training.trainer import Trainer


def test_eval_model_has_the_moving_average_of_the_weights(synthetic_images: ImageStore, small: Settings) -> None:
    settings = small.model_copy(update={"ema_decay": 0.5, "batch_size": 8, "precision": "fp32"})
    parts = Split(train=tuple(range(80)), test=tuple(range(80, 100)))
    state = Trainer(settings)
    averages = [weight.detach().clone() for weight in state.model.parameters()]
    other = Trainer(settings.model_copy(update={"ema_decay": 0}))
    for number, batch in enumerate(loader.train_loader(synthetic_images, parts.train, 8, settings.seed, 1)):
        trainer.step(other.model, batch, other.optimizer)
        for average, weight in zip(averages, other.model.parameters(), strict=True):
            # The first step replaces the average; then the decay grows to a half.
            average.lerp_(weight.detach(), 1 if number == 0 else 1 - min(0.5, (1 + number) / (10 + number)))
    epoch = state.run_epoch(synthetic_images, parts)
    for weight, expected in zip(state.eval_model.parameters(), averages, strict=True):
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)
    test_loader = loader.ordered_loader(synthetic_images, parts.test)
    assert epoch.test_loss == pytest.approx(trainer.evaluate(state.eval_model, test_loader), rel=1e-6)
    assert epoch.test_loss != pytest.approx(trainer.evaluate(state.model, test_loader), rel=1e-6)
    assert other.eval_model is other.model
