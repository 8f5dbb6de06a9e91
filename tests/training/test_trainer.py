"""Test one step and one evaluation of the trainer."""

import pytest
import torch
from torch import nn

from catae.data import loader
from catae.data.image_store import ImageStore
from catae.settings import Settings
from catae.training import trainer
from catae.training.trainer import Trainer


def test_evaluate_averages_over_images_not_batches(synthetic_images: ImageStore) -> None:
    model = nn.Identity()

    class Black(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full_like(images, -1)

    positions = range(120)
    batches = torch.utils.data.DataLoader(
        loader.ImageDataset(synthetic_images, positions), 119, collate_fn=lambda batch: batch
    )
    by_image = torch.stack([(image + 1).abs().mean() for batch in batches for image in batch]).mean().item()
    by_batch = torch.stack([(batch + 1).abs().mean() for batch in batches]).mean().item()
    assert trainer.evaluate(Black(), batches) == pytest.approx(by_image, rel=1e-6)
    assert abs(by_image - by_batch) > 1e-3
    assert trainer.evaluate(model, batches) == 0


def test_step_matches_a_plain_pytorch_loop(synthetic_images: ImageStore, small: Settings) -> None:
    """The plain loop has contiguous tensors, Adam and L1Loss."""
    state = Trainer(small)
    plain = Trainer(small).model.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.001)
    total = 0.0
    for batch in loader.train_loader(synthetic_images, range(100), 64, small.seed, 1):
        optimizer.zero_grad()
        loss = nn.L1Loss()(plain(batch.contiguous()), batch.contiguous())
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    loss = sum(
        trainer.step(state.model, batch, state.optimizer).item() * len(batch)
        for batch in loader.train_loader(synthetic_images, range(100), 64, small.seed, 1)
    )
    assert loss == pytest.approx(total, rel=1e-5)
    for weight, expected in zip(state.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=0)
