"""Train with one of five implementations. `throughput.py` starts each in a process of its own.

    python benchmarks/training/rivals.py lightning job.json

All train the same network on the same images, with the same batch size, loss, optimizer, schedule and number of epochs.
The script prints a line of JSON with times when training ends. A second line has the L1 on the test images: after each
epoch if the implementation saves checkpoints, otherwise after the last. The same code evaluates all implementations.
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
# catae's settings for the common network and training: the specification, and PyTorch's own initialization.
PLAIN: dict[str, Any] = {"recipe": "spec", "init": "torch", "ema_decay": 0}


@dataclass
class Times:
    """Times in seconds: when each epoch started, when its training steps ended, and when the whole epoch ended."""

    started: list[float] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)


def plain_net() -> Any:
    """Return the recipe's network in plain PyTorch, as an encoder and a decoder."""
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


def image_folder(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return the train and test images as subsets of an ImageFolder, with the recipe's transforms."""
    from torch.utils.data import Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Normalize, ToTensor

    dataset = ImageFolder(job["folder"], Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]))
    positions = {str(Path(path).relative_to(job["folder"])): index for index, (path, _) in enumerate(dataset.samples)}
    return tuple(Subset(dataset, [positions[name] for name in job[part]]) for part in ("train", "test"))  # type: ignore[return-value]


def loaders(job: dict[str, Any]) -> tuple[Any, Any]:
    """Return PyTorch data loaders of the train and test images."""
    from torch.utils.data import DataLoader

    train, test = image_folder(job)
    return (
        DataLoader(train, BATCH, shuffle=True, num_workers=job["workers"]),
        DataLoader(test, BATCH, num_workers=job["workers"]),
    )


def load_each(model: Any, states: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """Load each state into the model in turn, and yield the model."""
    for state in states:
        model.load_state_dict(state)
        yield model


def plain(job: dict[str, Any], times: Times) -> Iterable[Any]:
    """Train with the usual PyTorch loop."""
    import torch
    from torch import nn
    from torch.utils.tensorboard import SummaryWriter

    torch.manual_seed(job["seed"])
    network = plain_net()
    model = nn.Sequential(network["encoder"], network["decoder"])
    train, test = loaders(job)
    criterion = nn.L1Loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)
    log = SummaryWriter(job["scratch"])
    checkpoints = [Path(job["scratch"], f"epoch-{epoch}.pt") for epoch in range(job["epochs"])]
    for epoch in range(job["epochs"]):
        times.started.append(time.perf_counter())
        model.train()
        total = 0.0
        for images, _ in train:
            optimizer.zero_grad()
            loss = criterion(model(images), images)
            loss.backward()
            optimizer.step()
            total += loss.item()
        times.trained.append(time.perf_counter())
        model.eval()
        with torch.no_grad():
            test_loss = sum(criterion(model(images), images).item() for images, _ in test)
        schedule.step()
        log.add_scalar("loss/train", total / len(train), epoch)
        log.add_scalar("loss/test", test_loss / len(test), epoch)
        torch.save(model.state_dict(), checkpoints[epoch])
        times.ended.append(time.perf_counter())
    return load_each(model, map(torch.load, checkpoints))


def lightning(job: dict[str, Any], times: Times) -> Iterable[Any]:
    """Train with Lightning's Trainer, with its default logger and checkpoints."""
    import lightning
    import torch
    from torch import nn

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            network = plain_net()
            self.network = nn.Sequential(network["encoder"], network["decoder"])

        def training_step(self, batch: Any, number: int) -> Any:
            loss = nn.functional.l1_loss(self.network(batch[0]), batch[0])
            self.log("train", loss, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            self.log("test", nn.functional.l1_loss(self.network(batch[0]), batch[0]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=RATE)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)]

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *arguments: Any) -> None:
            times.started.append(time.perf_counter())

        def on_validation_start(self, *arguments: Any) -> None:
            if times.started:  # Lightning also validates once before the first epoch
                times.trained.append(time.perf_counter())

        def on_train_end(self, *arguments: Any) -> None:
            # Lightning saves the checkpoint after all other callbacks, so an epoch ends when the next one starts.
            times.ended += [*times.started[1:], time.perf_counter()]

    lightning.seed_everything(job["seed"], verbose=False)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=job["epochs"], accelerator="cpu", default_root_dir=job["scratch"], callbacks=[Clock()]
    )
    trainer.fit(module, *loaders(job))
    return [module.network]


def pythae(job: dict[str, Any], times: Times) -> Iterable[Any]:
    """Train with pythae's BaseTrainer, with the images in memory, as in its examples. It only saves at the end."""
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

        def forward(self, images: Any) -> Any:
            return ModelOutput(embedding=self.layers(images).flatten(1))

    class Decoder(BaseDecoder):
        def __init__(self, layers: nn.Module) -> None:
            BaseDecoder.__init__(self)
            self.layers = layers

        def forward(self, latents: Any) -> Any:
            return ModelOutput(reconstruction=self.layers(latents[:, :, None, None]))

    class L1AE(AE):
        def loss_function(self, reconstructions: Any, images: Any) -> Any:
            return nn.functional.l1_loss(reconstructions, images)

    class Clock(TrainingCallback):
        def on_epoch_begin(self, *arguments: Any, **keywords: Any) -> None:
            times.started.append(time.perf_counter())

        def on_eval_step_begin(self, *arguments: Any, **keywords: Any) -> None:
            if len(times.trained) < len(times.started):
                times.trained.append(time.perf_counter())

        def on_epoch_end(self, *arguments: Any, **keywords: Any) -> None:
            times.ended.append(time.perf_counter())

    def in_memory(images: Any) -> BaseDataset:
        data = torch.stack([image for image, _ in images])
        return BaseDataset(data, torch.zeros(len(data)))

    torch.manual_seed(job["seed"])
    network = plain_net()
    model = L1AE(AEConfig((3, 64, 64), latent_dim=128), Encoder(network["encoder"]), Decoder(network["decoder"]))
    config = BaseTrainerConfig(
        output_dir=job["scratch"], per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
        num_epochs=job["epochs"], learning_rate=RATE, seed=job["seed"], no_cuda=True,
        scheduler_cls="StepLR", scheduler_params={"step_size": 10, "gamma": 0.5},
    )  # fmt: skip
    train, test = image_folder(job)
    BaseTrainer(model, in_memory(train), in_memory(test), config, [Clock()]).train()
    return [nn.Sequential(network["encoder"], network["decoder"])]


def catae(job: dict[str, Any], times: Times, **overrides: Any) -> Iterable[Any]:
    """Train with catae, from the archive and without a cache."""
    import logging

    from catae import settings
    from catae.data import ingest, split
    from catae.system import hardware
    from catae.training import checkpoint, loop
    from catae.training.metrics import Epoch
    from catae.training.trainer import Trainer

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    overrides |= {"seed": job["seed"], "max_epochs": job["epochs"], "patience": job["epochs"]}
    resolved = settings.load(overrides | PLAIN)
    hardware.use_threads(resolved.threads)
    scratch = Path(job["scratch"])
    images, _ = ingest.read(job["source"], scratch / "cache")
    parts = split.split(images.keys)
    for folder in ("events", "checkpoints"):
        (scratch / folder).mkdir()
    last = scratch / "checkpoints" / loop.LAST
    checkpoints = [scratch / f"epoch-{n}.pt" for n in range(job["epochs"])]

    def clock(epoch: Epoch, max_epochs: int) -> None:
        times.ended.append(time.perf_counter())
        times.trained.append(times.started[-1] + len(parts.train) / epoch.images_per_second)
        checkpoints[epoch.number - 1].hardlink_to(last)  # the next epoch replaces this file and does not overwrite it
        times.started.append(times.ended[-1])

    # The others construct their trainer before the clock starts, catae within `fit`: import what it needs here, 1.2 s.
    Trainer(resolved)
    times.started.append(time.perf_counter())
    loop.fit(images, parts, resolved, scratch / "events", scratch / "checkpoints", after_epoch=clock)
    times.started.pop()
    return load_each(Trainer(resolved).model, (checkpoint.load(path)["model"] for path in checkpoints))


IMPLEMENTATIONS: dict[str, Callable[[dict[str, Any], Times], Iterable[Any]]] = {
    "plain": plain,
    "lightning": lightning,
    "pythae": pythae,
    "catae": catae,
    "catae fp32": lambda job, times: catae(job, times, precision="fp32"),
}


def test_l1(models: Iterable[Any], job: dict[str, Any]) -> Iterator[float]:
    """Yield each model's mean L1 over the test images, in float32 and for pixels in [-1, 1]."""
    import torch

    _, test = image_folder(job)
    images = torch.stack([image for image, _ in test])
    for model in models:
        with torch.no_grad():
            errors = [(model(batch) - batch).abs().mean((1, 2, 3)) for batch in images.split(BATCH)]
        yield float(torch.cat(errors).mean())


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes, on Linux."""
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(match[1]) if match else 0


def main() -> None:
    implementation, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    # The other libraries print many warnings that do not matter here.
    warnings.simplefilter("ignore")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    times = Times()
    output, sys.stdout = sys.stdout, sys.stderr  # keep what Lightning prints out of the result
    models = IMPLEMENTATIONS[implementation](job, times)
    print(json.dumps({**vars(times), "peak": peak_memory()}), file=output, flush=True)
    print(json.dumps(list(test_l1(models, job))), file=output, flush=True)


if __name__ == "__main__":
    main()
