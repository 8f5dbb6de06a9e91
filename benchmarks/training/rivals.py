"""One training, written in one of five ways: what `throughput.py` starts, each in a process of its own.

    python benchmarks/training/rivals.py lightning job.json

The net, the pictures, the batch, the loss, the optimizer, the schedule and the number of epochs are the same in all.
Prints a line of JSON when the model is trained, and another with its L1 on the test pictures after the last epoch, or
after each where the states are kept, by the same code for all.
"""

import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

BATCH, RATE = 64, 0.001
# catae's settings for the net that all have, and for what all train it with. It has one bias more for each filter and
# place behind the code, 3,840 of 2.4 million numbers.
PLAIN: dict[str, Any] = {
    "width": 32, "activation": "relu", "init": "torch", "ema_decay": 0, "hflip": 0, "shift": 0, "amsgrad": False,
    "weight_decay": 0,
}  # fmt: skip


@dataclass
class Times:
    """When each epoch began, when its training was over, and when all of it was: seconds."""

    begun: list[float] = field(default_factory=list)
    looped: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)


def plain_net() -> Any:
    """The recipe's net, as people write it: its two halves."""
    from torch import nn

    widths = [3, 32, 64, 128, 256]
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        encoder += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.ReLU()]
        decoder = [nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, 2, 1), *decoder]
    encoder += [nn.Conv2d(256, 128, 4)]
    decoder = [nn.ConvTranspose2d(128, 256, 4), *decoder, nn.Tanh()]
    return nn.ModuleDict({"encoder": nn.Sequential(*encoder), "decoder": nn.Sequential(*decoder)})


def picture_folder(job: dict[str, Any]) -> tuple[Any, Any]:
    """ImageFolder's train and test pictures, with the transforms of the recipe."""
    from torch.utils.data import Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Normalize, ToTensor

    whole = ImageFolder(job["folder"], Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]))
    positions = {str(Path(path).relative_to(job["folder"])): index for index, (path, _) in enumerate(whole.samples)}
    return tuple(Subset(whole, [positions[name] for name in job[part]]) for part in ("train", "test"))  # type: ignore[return-value]


def loaders(job: dict[str, Any]) -> tuple[Any, Any]:
    """PyTorch's loaders of those."""
    from torch.utils.data import DataLoader

    train, test = picture_folder(job)
    return (
        DataLoader(train, BATCH, shuffle=True, num_workers=job["workers"]),
        DataLoader(test, BATCH, num_workers=job["workers"]),
    )


def each(model: Any, states: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """The model as it was in each state, one at a time."""
    for state in states:
        model.load_state_dict(state)
        yield model


def plain(job: dict[str, Any], times: Times) -> Iterable[Any]:
    """The loop that people write."""
    import torch
    from torch import nn
    from torch.utils.tensorboard import SummaryWriter

    torch.manual_seed(job["seed"])
    net = plain_net()
    model = nn.Sequential(net["encoder"], net["decoder"])
    train, test = loaders(job)
    criterion = nn.L1Loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)
    log = SummaryWriter(job["scratch"])
    kept = [Path(job["scratch"], f"epoch-{epoch}.pt") for epoch in range(job["epochs"])]
    for epoch in range(job["epochs"]):
        times.begun.append(time.perf_counter())
        model.train()
        total = 0.0
        for pictures, _ in train:
            optimizer.zero_grad()
            loss = criterion(model(pictures), pictures)
            loss.backward()
            optimizer.step()
            total += loss.item()
        times.looped.append(time.perf_counter())
        model.eval()
        with torch.no_grad():
            tested = sum(criterion(model(pictures), pictures).item() for pictures, _ in test)
        schedule.step()
        log.add_scalar("loss/train", total / len(train), epoch)
        log.add_scalar("loss/test", tested / len(test), epoch)
        torch.save(model.state_dict(), kept[epoch])
        times.ended.append(time.perf_counter())
    return each(model, map(torch.load, kept))


def lightning(job: dict[str, Any], times: Times) -> Iterable[Any]:
    """Lightning's Trainer, with its logger and its checkpoints as they come."""
    import lightning
    import torch
    from torch import nn

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            net = plain_net()
            self.net = nn.Sequential(net["encoder"], net["decoder"])

        def training_step(self, batch: Any, number: int) -> Any:
            loss = nn.functional.l1_loss(self.net(batch[0]), batch[0])
            self.log("train", loss, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            self.log("test", nn.functional.l1_loss(self.net(batch[0]), batch[0]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=RATE)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)]

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *given: Any) -> None:
            times.begun.append(time.perf_counter())

        def on_validation_start(self, *given: Any) -> None:
            if times.begun:  # there is one before the first epoch, to see whether it works
                times.looped.append(time.perf_counter())

        def on_train_end(self, *given: Any) -> None:
            # An epoch's checkpoint is saved after all other callbacks of its end: it is over when the next one begins.
            times.ended += [*times.begun[1:], time.perf_counter()]

    lightning.seed_everything(job["seed"], verbose=False)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=job["epochs"], accelerator="cpu", default_root_dir=job["scratch"], callbacks=[Clock()]
    )
    trainer.fit(module, *loaders(job))
    return [module.net]


def pythae(job: dict[str, Any], times: Times) -> Iterable[Any]:
    """pythae's BaseTrainer, with the pictures in memory, as its users give them. It saves nothing before the end."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import AE, AEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback
    from torch import nn

    class Encoder(BaseEncoder):
        def __init__(self, layers: nn.Module) -> None:
            BaseEncoder.__init__(self)
            self.layers, self.latent_dim = layers, 128

        def forward(self, pictures: Any) -> Any:
            return ModelOutput(embedding=self.layers(pictures).flatten(1))

    class Decoder(BaseDecoder):
        def __init__(self, layers: nn.Module) -> None:
            BaseDecoder.__init__(self)
            self.layers = layers

        def forward(self, codes: Any) -> Any:
            return ModelOutput(reconstruction=self.layers(codes[:, :, None, None]))

    class L1AE(AE):
        def loss_function(self, restored: Any, pictures: Any) -> Any:
            return nn.functional.l1_loss(restored, pictures)

    class Clock(TrainingCallback):
        def on_epoch_begin(self, *given: Any, **named: Any) -> None:
            times.begun.append(time.perf_counter())

        def on_eval_step_begin(self, *given: Any, **named: Any) -> None:
            if len(times.looped) < len(times.begun):
                times.looped.append(time.perf_counter())

        def on_epoch_end(self, *given: Any, **named: Any) -> None:
            times.ended.append(time.perf_counter())

    def in_memory(pictures: Any) -> BaseDataset:
        data = torch.stack([picture for picture, _ in pictures])
        return BaseDataset(data, torch.zeros(len(data)))

    torch.manual_seed(job["seed"])
    net = plain_net()
    model = L1AE(AEConfig((3, 64, 64), latent_dim=128), Encoder(net["encoder"]), Decoder(net["decoder"]))
    config = BaseTrainerConfig(
        output_dir=job["scratch"], per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
        num_epochs=job["epochs"], learning_rate=RATE, seed=job["seed"], no_cuda=True,
        scheduler_cls="StepLR", scheduler_params={"step_size": 10, "gamma": 0.5},
    )  # fmt: skip
    train, test = picture_folder(job)
    BaseTrainer(model, in_memory(train), in_memory(test), config, [Clock()]).train()
    return [nn.Sequential(net["encoder"], net["decoder"])]


def catae(job: dict[str, Any], times: Times, **given: Any) -> Iterable[Any]:
    """catae as it comes, from the archive, with no cache."""
    import logging

    from catae import settings
    from catae.data import ingest, split
    from catae.system import hardware
    from catae.training import checkpoint, trainer
    from catae.training.metrics import Epoch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given |= {"seed": job["seed"], "max_epochs": job["epochs"], "patience": job["epochs"]}
    given |= PLAIN
    resolved = settings.load(given)
    hardware.use_threads(resolved.threads)
    scratch = Path(job["scratch"])
    images, _ = ingest.read(job["source"], scratch / "cache")
    parts = split.split(images.keys)
    for folder in ("events", "checkpoints"):
        (scratch / folder).mkdir()
    last, kept = scratch / "checkpoints" / trainer.LAST, [scratch / f"epoch-{n}.pt" for n in range(job["epochs"])]

    def clock(epoch: Epoch, most: int) -> None:
        times.ended.append(time.perf_counter())
        times.looped.append(times.begun[-1] + len(parts.train) / epoch.images_per_second)
        kept[epoch.number - 1].hardlink_to(last)  # which the next epoch replaces, and doesn't write over
        times.begun.append(times.ended[-1])

    trainer.Training(
        resolved
    )  # `fit` makes its own, where others make theirs before the clock starts: 1.2 s of imports
    times.begun.append(time.perf_counter())
    trainer.fit(images, parts, resolved, scratch / "events", scratch / "checkpoints", after_epoch=clock)
    times.begun.pop()
    return each(trainer.Training(resolved).model, (checkpoint.load(path)["model"] for path in kept))


WAYS: dict[str, Callable[[dict[str, Any], Times], Iterable[Any]]] = {
    "plain": plain,
    "lightning": lightning,
    "pythae": pythae,
    "catae": catae,
    "catae fp32": lambda job, times: catae(job, times, precision="fp32"),
}


def test_l1(models: Iterable[Any], job: dict[str, Any]) -> Iterator[float]:
    """Each model's mean L1 over the test pictures, in [-1, 1] and in float32."""
    import torch

    _, test = picture_folder(job)
    pictures = torch.stack([picture for picture, _ in test])
    for model in models:
        with torch.no_grad():
            errors = [(model(batch) - batch).abs().mean((1, 2, 3)) for batch in pictures.split(BATCH)]
        yield float(torch.cat(errors).mean())


def peak() -> int:
    """The most memory that this process has held, in bytes; Linux."""
    held = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(held[1]) if held else 0


def main() -> None:
    way, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    # Others' code warns of much that is no concern here.
    warnings.simplefilter("ignore")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    times = Times()
    output, sys.stdout = sys.stdout, sys.stderr  # what Lightning prints is not for our reader
    models = WAYS[way](job, times)
    print(json.dumps({**vars(times), "peak": peak()}), file=output, flush=True)
    print(json.dumps(list(test_l1(models, job))), file=output, flush=True)


if __name__ == "__main__":
    main()
