"""Test the moving average of the weights, and the rollback to it."""

import pytest
import torch
from torch import nn

from catae.data import loader, split
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.settings import Settings
from catae.training import trainer
from catae.training.trainer import Trainer


@pytest.fixture(scope="module")
def parts(synthetic_images: ImageStore) -> Split:
    return split.split(synthetic_images.keys, test_fraction=0.3)


def test_eval_model_has_the_moving_average_of_the_weights(synthetic_images: ImageStore, small: Settings) -> None:
    settings = small.model_copy(update={"ema_decay": 0.5, "batch_size": 8, "precision": "fp32"})
    parts = Split(train=tuple(range(80)), test=tuple(range(80, 100)))
    state = Trainer(settings)
    averages = [weight.detach().clone() for weight in state.model.parameters()]
    other = Trainer(settings.model_copy(update={"ema_decay": 0}))
    for number, batch in enumerate(loader.train_loader(synthetic_images, parts.train, 8, settings.seed, 1, 0, 0.5, 1)):
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


@pytest.fixture
def settled(synthetic_images: ImageStore, parts: Split, small: Settings) -> Trainer:
    """Return a trainer after 135 steps, past the warm-up."""
    state = Trainer(small.model_copy(update={"batch_size": 4}))
    for _ in range(5):
        state.run_epoch(synthetic_images, parts)
    return state


def saturate(model: nn.Module) -> None:
    """Make every pixel black or white, where the gradient of tanh is 0."""
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(100)


def test_a_loss_spike_rolls_the_weights_back(
    synthetic_images: ImageStore, parts: Split, settled: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    before = trainer.evaluate(settled.model, loader.ordered_loader(synthetic_images, parts.test))
    saturate(settled.model.decoder)
    settled.run_epoch(synthetic_images, parts)
    assert "the loss spiked in epoch 6: training resumed from the averaged weights (1 time)" in caplog.text
    assert trainer.evaluate(settled.model, loader.ordered_loader(synthetic_images, parts.test)) < 1.1 * before


def test_a_bad_average_is_rolled_back_to_only_once(
    synthetic_images: ImageStore, parts: Split, settled: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    saturate(settled.model.decoder)
    saturate(settled.eval_model.decoder)
    settled.run_epoch(synthetic_images, parts)
    assert "(1 time)" in caplog.text


def test_the_usual_loss_survives_a_resume(
    synthetic_images: ImageStore, parts: Split, settled: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    other = Trainer(settled.settings)
    other.load_state_dict(settled.state_dict())
    saturate(other.model.decoder)
    other.run_epoch(synthetic_images, parts)
    assert "(1 time)" in caplog.text
