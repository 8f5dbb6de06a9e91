"""What each of the processes that `torchrun` starts finds when it trains with the others, and then alone: JSON."""

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
# 32, 32 and a last batch of a single picture, which only one process can have.
parts = dataclasses.replace(split.split(images.keys, test_fraction=0.3), train=tuple(range(65)))
chosen = Settings(image_size=32, latent_dim=16, width=8, batch_size=32, ema_decay=0, precision="fp32")


def trained(us: World, dtype: torch.dtype) -> tuple[Trainer, list[float]]:
    """After two epochs, with the losses in them; with weights in float64 where `dtype` is."""
    state = Trainer(chosen, world=us)
    state.start_linear(images, parts.train)
    state.dtype = dtype
    if dtype == torch.float64:
        state.model.double()
    told = [state.run_epoch(images, parts) for _ in range(2)]
    return state, [loss for epoch in told for loss in (epoch.train_loss, epoch.test_loss)]


def flat(state: Trainer) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in state.model.parameters()])


found = {}
with distributed.init_process_group() as us:
    torch.set_num_threads(1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        (together, losses), (alone, expected) = trained(us, dtype), trained(SINGLE, dtype)
        begun = Trainer(chosen)
        begun.start_linear(images, parts.train)
        far = (flat(alone) - flat(begun)).norm()
        found[str(dtype).removeprefix("torch.")] = {
            "weights": float((flat(together) - flat(alone)).norm() / far),
            "losses": max(abs(one - other) / other for one, other in zip(losses, expected, strict=True)),
            "same as the first's": bool(torch.equal(us.broadcast(flat(together)), flat(together))),
        }
    shared = evaluate(alone.model, ordered_loader(images, us.share(range(7))), world=us)
    found["evaluation"] = abs(shared / evaluate(alone.model, ordered_loader(images, range(7))) - 1)
    found["rank"] = us.rank
os.write(sys.stdout.fileno(), f"{json.dumps(found)}\n".encode())  # at once: the other process writes there, too
