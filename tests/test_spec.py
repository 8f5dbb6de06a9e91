"""The default recipe follows the specification to the letter: network, images, loss, optimizer, schedule and stop."""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import jobs
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize, ToTensor

from catae import settings
from catae.data import loader, transforms
from catae.data.image_store import ImageStore
from catae.model import weights
from catae.training import trainer
from catae.training.trainer import Trainer


def specified_network(
    image_size: int = 64, latent_dim: int = 128, width: int = 32, whitened: bool = False
) -> nn.Sequential:
    """Return the network in PyTorch's own layers: Conv, ReLU, … to 1x1, and ConvTranspose, ReLU, … to Tanh.

    In an exported model the decoder begins with a 1x1 ConvTranspose and ReLU, which undo the whitening of the latents.
    """
    filters = [3]
    while image_size >> len(filters) - 1 > 4:
        filters.append(width << len(filters) - 1)
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for few, many in pairwise(filters):
        encoder += [nn.Conv2d(few, many, 4, 2, 1), nn.ReLU()]
        decoder = [nn.ReLU(), nn.ConvTranspose2d(many, few, 4, 2, 1), *decoder]
    encoder = [*encoder, nn.Conv2d(filters[-1], latent_dim, 4)]
    decoder = [nn.ConvTranspose2d(2 * latent_dim if whitened else latent_dim, filters[-1], 4), *decoder, nn.Tanh()]
    if whitened:
        decoder = [nn.ConvTranspose2d(latent_dim, 2 * latent_dim, 1), nn.ReLU(), *decoder]
    halves = (("encoder", encoder), ("decoder", decoder))
    return nn.Sequential(OrderedDict((name, named("layers", nn.Sequential(*layers))) for name, layers in halves))


def named(name: str, module: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict([(name, module)]))


def test_trained_and_exported_models_are_the_specified_network(synthetic_images: ImageStore, tmp_path: Path) -> None:
    resolved = settings.load(
        {"source": "drawn:120", "image_size": 32, "latent_dim": 16, "width": 8, "max_epochs": 2, "output_dir": tmp_path}
    )
    run = jobs.train(resolved)
    trained, exported = specified_network(32, 16, 8), specified_network(32, 16, 8, whitened=True)
    trained.load_state_dict(torch.load(run.checkpoints / "best.pt", weights_only=True)["model"], strict=True)
    exported.load_state_dict(load_file(run.model), strict=True)
    images = transforms.normalize(synthetic_images.take(range(8)))
    with torch.inference_mode():
        torch.testing.assert_close(weights.load(run.model)(images), exported(images), atol=1e-5, rtol=0)
        torch.testing.assert_close(exported(images), trained(images), atol=1e-4, rtol=0)
        assert exported(images).std() > 0.1


def test_the_default_network_has_128_latent_channels_of_1x1() -> None:
    model = Trainer(settings.load()).model
    plain = specified_network()
    assert {name: weight.shape for name, weight in model.state_dict().items()} == {
        name: weight.shape for name, weight in plain.state_dict().items()
    }
    assert plain.encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 128, 1, 1)  # type: ignore[operator]


def test_the_optimizer_is_adam_with_pytorchs_defaults() -> None:
    state = Trainer(settings.load())
    assert type(state.optimizer) is torch.optim.Adam
    expected = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.001).defaults
    # `fused` selects the kernel that computes the same step.
    assert state.optimizer.defaults | {"fused": None} == expected | {"fused": None}
    assert [group["lr"] for group in state.optimizer.param_groups] == [0.001]


def test_the_schedule_and_the_stop_are_as_specified() -> None:
    state = Trainer(settings.load())
    assert type(state.scheduler) is torch.optim.lr_scheduler.StepLR
    assert (state.scheduler.step_size, state.scheduler.gamma) == (10, 0.5)
    assert state.early_stopping.patience == 3


def test_train_images_are_as_totensor_and_normalize_produce_them(synthetic_images: ImageStore) -> None:
    resolved = settings.load()
    transform = Compose([ToTensor(), Normalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])])
    expected = {transform(Image.fromarray(image)).numpy().tobytes() for image in synthetic_images.take(range(100))}
    batches = [*train_batches(synthetic_images, resolved, epoch=1)]
    actual = {image.contiguous().numpy().tobytes() for batch in batches for image in batch}
    assert actual == expected
    assert [len(batch) for batch in batches] == [64, 36]


def train_batches(images: ImageStore, resolved: settings.Settings, epoch: int) -> loader.Loader:
    return loader.train_loader(
        images,
        range(100),
        resolved.batch_size,
        resolved.seed,
        epoch,
        0,
        resolved.hflip,
        resolved.shift,
        resolved.affine,
    )


def test_a_hundred_steps_equal_those_of_a_loop_written_from_the_specification(synthetic_images: ImageStore) -> None:
    resolved = settings.load({"image_size": 32, "latent_dim": 16, "width": 8, "precision": "fp32"})
    state = Trainer(resolved)
    plain = specified_network(32, 16, 8)
    plain.load_state_dict(state.model.state_dict(), strict=True)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.001)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
    criterion = nn.L1Loss()
    for epoch in range(1, 51):
        for batch in train_batches(synthetic_images, resolved, epoch):
            optimizer.zero_grad()
            expected = criterion(plain(batch.contiguous()), batch.contiguous())
            expected.backward()
            optimizer.step()
            actual = trainer.step(state.model, batch, state.optimizer, state.dtype)
            assert actual.item() == pytest.approx(expected.item(), rel=1e-3)
        scheduler.step()
        state.scheduler.step()
    assert moved(state.model, plain) < 1e-3


def moved(model: nn.Module, other: nn.Module) -> float:
    """Return the distance between the weights of two models, relative to their norm."""

    def flat(module: nn.Module) -> Tensor:
        return torch.cat([weights.detach().flatten() for weights in module.parameters()])

    return ((flat(model) - flat(other)).norm() / flat(other).norm()).item()
