"""Compare training in several processes with training in one; print a JSON line per process.

`torchrun` starts this script. Its argument is the folder of an image store.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from catae.data import split
from catae.data.image_store import ImageStore
from catae.data.loader import ordered_loader
from catae.settings import Settings
from catae.training import distributed
from catae.training.distributed import SINGLE, World
from catae.training.trainer import Trainer, evaluate

images = ImageStore(Path(sys.argv[1]))
# 65 images make batches of 32, 32 and 1: only one process gets the last image.
parts = dataclasses.replace(split.split(images.keys, test_fraction=0.3), train=tuple(range(65)))
settings = Settings(image_size=32, latent_dim=16, width=8, batch_size=32, ema_decay=0, precision="fp32")


def train(world: World, dtype: torch.dtype) -> tuple[Trainer, list[float]]:
    """Train for two epochs; return the trainer and the losses.

    With `torch.float64`, the weights are in float64, too.
    """
    trainer = Trainer(settings, world=world)
    trainer.start_linear(images, parts.train)
    trainer.dtype = dtype
    if dtype == torch.float64:
        trainer.model.double()
    epochs = [trainer.run_epoch(images, parts) for _ in range(2)]
    return trainer, [loss for epoch in epochs for loss in (epoch.train_loss, epoch.test_loss)]


def flatten(trainer: Trainer) -> torch.Tensor:
    """Return all weights as one vector."""
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


results = {}
with distributed.init_process_group() as world:
    torch.set_num_threads(1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        (parallel, losses), (single, expected) = train(world, dtype), train(SINGLE, dtype)
        initial = Trainer(settings)
        initial.start_linear(images, parts.train)
        update_norm = (flatten(single) - flatten(initial)).norm()
        results[str(dtype).removeprefix("torch.")] = {
            "weights": float((flatten(parallel) - flatten(single)).norm() / update_norm),
            "losses": max(abs(one - other) / other for one, other in zip(losses, expected, strict=True)),
            "equal to rank 0": bool(torch.equal(world.broadcast(flatten(parallel)), flatten(parallel))),
        }
    loss = evaluate(single.model, ordered_loader(images, world.share(range(7))), world=world)
    results["evaluation"] = abs(loss / evaluate(single.model, ordered_loader(images, range(7))) - 1)
    results["rank"] = world.rank
# A single write, because all processes share stdout.
os.write(sys.stdout.fileno(), f"{json.dumps(results)}\n".encode())
