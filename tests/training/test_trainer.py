import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from catae.data import loader, split
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.errors import UserError
from catae.settings import Settings
from catae.system import hardware
from catae.training import checkpoint, loop, metrics, tensorboard, trainer
from catae.training.loop import Outcome
from catae.training.trainer import Trainer


@pytest.fixture(scope="module")
def parts(synthetic_images: ImageStore) -> Split:
    return split.split(synthetic_images.keys, test_fraction=0.3)


def fit(images: ImageStore, parts: Split, settings: Settings, folder: Path) -> Outcome:
    return loop.fit(images, parts, settings, folder / "events", folder / "checkpoints")


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / name)["model"]  # type: ignore[no-any-return]


def test_optimizer_schedule_and_stopping_are_those_of_the_recipe() -> None:
    state = Trainer(Settings())
    assert isinstance(state.optimizer, torch.optim.Adam)
    assert state.optimizer.param_groups[0]["lr"] == 0.001
    assert isinstance(state.scheduler, torch.optim.lr_scheduler.StepLR)
    assert (state.scheduler.step_size, state.scheduler.gamma) == (10, 0.5)
    assert (state.early_stopping.patience, state.early_stopping.min_delta) == (3, 0.0003)


def test_an_evaluation_is_the_mean_over_pictures_and_not_over_batches(synthetic_images: ImageStore) -> None:
    model = nn.Identity()

    class Black(nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return torch.full_like(pictures, -1)

    positions = range(120)
    batches = torch.utils.data.DataLoader(
        loader.ImageDataset(synthetic_images, positions), 119, collate_fn=lambda batch: batch
    )
    by_picture = torch.stack([(picture + 1).abs().mean() for batch in batches for picture in batch]).mean().item()
    by_batch = torch.stack([(batch + 1).abs().mean() for batch in batches]).mean().item()
    assert trainer.evaluate(Black(), batches) == pytest.approx(by_picture, rel=1e-6)
    assert abs(by_picture - by_batch) > 1e-3
    assert trainer.evaluate(model, batches) == 0


def test_a_training_step_is_pytorchs_own(synthetic_images: ImageStore, small: Settings) -> None:
    """The same batches through a loop as everyone writes it: plain layout, plain Adam, losses by hand."""
    state = Trainer(small)
    plain = Trainer(small).model.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.001, weight_decay=0.1, amsgrad=True)
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
    for ours, theirs in zip(state.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_training_in_bfloat16_learns_what_training_in_float32_does(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        settings = small.model_copy(update={"precision": precision, "max_epochs": 10, "batch_size": 8})
        outcome = fit(synthetic_images, parts, settings, tmp_path / precision)
        assert (outcome.precision, outcome.precision_because.split(";")[0]) == (
            precision,
            f"CATAE_PRECISION is {precision}",
        )
        losses[precision] = outcome.best_loss
        assert {tensor.dtype for tensor in weights(tmp_path / precision, "last.pt").values()} == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_a_net_that_starts_out_linear_is_ahead_from_the_first_epoch_and_the_same_each_time(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    losses = {}
    for name, init in (("torch", "torch"), ("pca", "pca"), ("again", "pca")):
        settings = small.model_copy(update={"init": init, "max_epochs": 1, "batch_size": 8})
        losses[name] = fit(synthetic_images, parts, settings, tmp_path / name).best_loss
    assert losses["pca"] < 0.8 * losses["torch"]
    assert losses["again"] == losses["pca"]
    assert any(message.startswith("initialized a linear autoencoder from ") for message in caplog.messages)


def test_where_it_cant_start_out_linear_that_is_said(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = small.model_copy(update={"activation": "relu", "width": 3, "max_epochs": 1})
    fit(synthetic_images, parts, settings, tmp_path)
    assert any(message.startswith("CATAE_INIT=pca needs a CATAE_WIDTH of at most 48") for message in caplog.messages)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bytes(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, precision: str
) -> None:
    small = small.model_copy(update={"precision": precision})
    for name in ("one", "two"):
        fit(synthetic_images, parts, small, tmp_path / name)
        torch.rand(3)  # the global generator has no say
    assert (tmp_path / "one/checkpoints/last.pt").read_bytes() == (tmp_path / "two/checkpoints/last.pt").read_bytes()
    fit(synthetic_images, parts, small.model_copy(update={"seed": 1}), tmp_path / "three")
    one, three = weights(tmp_path / "one", "last.pt"), weights(tmp_path / "three", "last.pt")
    assert not torch.equal(one["encoder.layers.0.weight"], three["encoder.layers.0.weight"])


def test_training_makes_the_loss_fall_and_logs_each_epoch(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = small.model_copy(update={"max_epochs": 6, "lr_step_size": 4, "batch_size": 8})
    outcome = fit(synthetic_images, parts, settings, tmp_path)
    curves = tensorboard.read_scalars(tmp_path / "events")

    assert set(curves) == {"loss/train", "loss/test", "learning_rate", "images_per_second", "seconds"}
    assert all(list(curve) == [1, 2, 3, 4, 5, 6] for curve in curves.values())
    assert curves["loss/test"][6] < curves["loss/test"][1]
    assert list(curves["learning_rate"].values()) == pytest.approx([0.001] * 4 + [0.0005] * 2)
    assert outcome.best_loss == pytest.approx(min(curves["loss/test"].values()), rel=1e-6)
    assert outcome.stop_reason == "max_epochs (6) was reached"
    assert sum(message.startswith("epoch ") for message in caplog.messages) == 6


def test_it_stops_early_and_keeps_the_weights_of_the_best_epoch(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    # Nothing is better by 90 %: the first epoch stays the best.
    settings = small.model_copy(update={"max_epochs": 50, "min_delta": 0.9, "patience": 2})
    outcome = fit(synthetic_images, parts, settings, tmp_path)
    assert (outcome.epochs, outcome.best_epoch) == (3, 1)
    assert outcome.stop_reason == "the test loss fell by no more than 90.00% for 2 epochs in a row"

    best = Trainer(settings)
    best.model.load_state_dict(weights(tmp_path, "best.pt"))
    loss = trainer.evaluate(best.model, loader.ordered_loader(synthetic_images, parts.test), best.dtype)
    assert loss == outcome.best_loss
    assert not torch.equal(
        weights(tmp_path, "best.pt")["encoder.layers.0.weight"], weights(tmp_path, "last.pt")["encoder.layers.0.weight"]
    )


def test_with_validation_pictures_they_decide_and_the_test_pictures_dont(
    synthetic_images: ImageStore, small: Settings, tmp_path: Path
) -> None:
    settings = small.model_copy(update={"validation_fraction": 0.3, "max_epochs": 4})
    parts = split.split(synthetic_images.keys, test_fraction=0.3, validation_fraction=0.3)
    outcome = fit(synthetic_images, parts, settings, tmp_path)
    curves = tensorboard.read_scalars(tmp_path / "events")
    assert outcome.monitor == "validation"
    assert outcome.best_loss == pytest.approx(min(curves["loss/validation"].values()), rel=1e-6)

    other = Split(parts.train, test=parts.test[:3], validation=parts.validation)
    fit(synthetic_images, other, settings, tmp_path / "other")
    one, two = weights(tmp_path, "best.pt"), weights(tmp_path / "other", "best.pt")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_loss_that_is_no_number_stops_the_training_and_says_what_to_do(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=r"training diverged in epoch 1: the loss is .*nan.*; lower CATAE_LEARNING_RATE, which is 1e\+30",
    ):
        fit(synthetic_images, parts, small.model_copy(update={"learning_rate": 1e30}), tmp_path)


def test_the_log_shows_pictures_in_a_folder_of_their_own(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(synthetic_images, parts, small.model_copy(update={"max_epochs": 5}), tmp_path)
    log = EventAccumulator(str(tmp_path / "events/pictures"), size_guidance={"images": 0})
    log.Reload()
    assert set(log.Tags()["images"]) == {"reconstructions", "samples"}
    assert [point.step for point in log.Images("reconstructions")] == [1, 5]
    assert (tmp_path / "events/scalars").stat().st_size < 20_000


def test_an_epochs_line_fits_a_terminal_and_tells_the_time_that_is_left_at_the_most() -> None:
    epoch = metrics.Epoch(10, 0.5, 0.6, None, 0.00025, 12345.0, 99.0, is_best=True)
    line = metrics.line(epoch, 100)
    assert line == "epoch  10/100  train 0.5000  test 0.6000*  lr 0.00025  12,345 img/s  ETA 2:28:30"
    assert len(line) <= 80
    assert "*" not in metrics.line(replace(epoch, is_best=False), 100)


def test_a_training_that_goes_on_from_a_state_ends_with_the_same_bytes(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    """Interrupted between two epochs, and within one, at every batch."""
    settings = small.model_copy(update={"max_epochs": 2, "batch_size": 20, "lr_step_size": 1})
    fit(synthetic_images, parts, settings, tmp_path / "whole")
    expected = state_of(tmp_path / "whole")

    class Killed(BaseException):
        pass

    step = trainer.step
    for kill_at in range(1, 2 * 5):
        folder = tmp_path / f"killed-{kill_at}"
        steps = iter(range(1, 100))

        def dying_step(*given: Any, steps: Iterator[int] = steps, kill_at: int = kill_at) -> torch.Tensor:
            if next(steps) == kill_at:
                raise Killed
            return step(*given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "step", dying_step)
            # Every step is saved, but the one that dies comes before its saving.
            hasty = settings.model_copy(update={"checkpoint_minutes": 1e-9})
            with pytest.raises(Killed):
                fit(synthetic_images, parts, hasty, folder)
        outcome = fit(synthetic_images, parts, settings, folder)
        assert outcome.epochs == 2
        assert state_of(folder) == expected
        curves = tensorboard.read_scalars(folder / "events")
        assert list(curves["loss/test"]) == [1, 2]
        assert curves["loss/test"] == tensorboard.read_scalars(tmp_path / "whole/events")["loss/test"]


def state_of(folder: Path) -> dict[str, bytes]:
    """The last state, without the seconds that it took, and the best model."""
    found = {}
    for name in ("last.pt", "best.pt"):
        state = checkpoint.load(folder / "checkpoints" / name)
        if name == "last.pt":
            state["progress"]["seconds"] = 0.0
        data = io.BytesIO()
        torch.save(state, data)
        found[name] = data.getvalue()
    return found


def test_a_training_that_was_over_trains_no_more(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    first = fit(synthetic_images, parts, small, tmp_path)
    before = (tmp_path / "checkpoints/last.pt").read_bytes()
    assert fit(synthetic_images, parts, small, tmp_path) == first
    assert (tmp_path / "checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "another's", "gone"])
def test_from_a_damaged_state_the_one_before_is_gone_on_from(
    synthetic_images: ImageStore,
    parts: Split,
    small: Settings,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit(synthetic_images, parts, small, tmp_path / "whole")
    fit(synthetic_images, parts, small, tmp_path / "hurt")
    last = tmp_path / "hurt/checkpoints/last.pt"
    data = last.read_bytes()
    if damage == "truncated":
        last.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        last.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "another's":
        checkpoint.save(tmp_path / "another.pt", checkpoint.load(last) | {"identity": {"data": "another"}})
        last.write_bytes((tmp_path / "another.pt").read_bytes())
    else:
        last.unlink()
    caplog.set_level(logging.INFO)
    fit(synthetic_images, parts, small, tmp_path / "hurt")
    assert ("trying the previous checkpoint" in caplog.text) == (damage != "gone")
    assert "resuming after epoch" in caplog.text
    assert state_of(tmp_path / "hurt") == state_of(tmp_path / "whole")


def test_a_disk_with_too_little_room_is_told_before_anything_is_trained(
    synthetic_images: ImageStore, parts: Split, small: Settings, tiny_disk: Path
) -> None:
    wide = small.model_copy(update={"width": 32})
    with pytest.raises(UserError, match=r"has [34]\.\d MB free, but \d+\.\d MB are needed; free some"):
        fit(synthetic_images, parts, wide, tiny_disk / "run")
    assert not (tiny_disk / "run/checkpoints").exists()


def test_a_full_disk_is_told_and_the_training_goes_on_once_there_is_room(
    synthetic_images: ImageStore, parts: Split, small: Settings, tiny_disk: Path, tmp_path: Path
) -> None:
    settings = small.model_copy(update={"max_epochs": 4, "width": 4})
    fit(synthetic_images, parts, settings, tmp_path / "whole")
    step, filler = trainer.step, tiny_disk / "filler"
    steps = iter(range(1, 100))

    def filling_step(*given: Any) -> torch.Tensor:
        if next(steps) == 4:  # in the second of the epochs, of 2 steps each
            with contextlib.suppress(OSError), filler.open("wb") as file:
                file.write(bytes(8 * 2**20))
        return step(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "step", filling_step)
        with pytest.raises(
            UserError, match=r"No space left on device \((\d\.\d MB needed, )?\d\.\d MB free\); free some space"
        ):
            fit(synthetic_images, parts, settings, tiny_disk / "run")
    assert filler.exists()
    filler.unlink()
    fit(synthetic_images, parts, settings, tiny_disk / "run")
    assert state_of(tiny_disk / "run") == state_of(tmp_path / "whole")


def test_a_batch_that_is_too_large_for_the_memory_is_told_before_it_is_tried(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 2e6)
    said = r"training with width 8 and batches of \d+ needs about 0\.0 GB of memory, but 0\.0 GB are available; lower"
    with pytest.raises(UserError, match=said):
        fit(synthetic_images, parts, small, tmp_path)


def test_memory_that_runs_out_in_mid_training_is_told_in_one_line(tmp_path: Path) -> None:
    """In a process whose memory is limited, where the estimate, which knows of no such limit, has let it pass."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from catae import settings; from catae.errors import UserError; from catae.data import ingest, split\n"
        "from catae.system import hardware; from catae.training import loop, trainer\n"
        "resolved = settings.Settings(source='drawn:600', width=48, batch_size=512, threads=1)\n"
        "hardware.use_threads(1)\n"
        "images, _ = ingest.read(resolved.source, Path('cache'))\n"
        "trainer.Trainer(resolved)\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)\n"
        "try: loop.fit(images, split.split(images.keys), resolved, Path('events'), Path('checkpoints'))\n"
        "except UserError as error: sys.exit(str(error))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 1
    said = "training with width 48 and batches of 512 ran out of memory; lower CATAE_BATCH_SIZE or CATAE_WIDTH"
    assert ran.stderr == f"{said}, or provide more memory\n"


def test_a_whole_state_that_isnt_this_trainings_is_told(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    fit(synthetic_images, parts, small, tmp_path)
    last = tmp_path / "checkpoints/last.pt"
    state = checkpoint.load(last)
    for wrong in (
        {"model": {}},
        {"progress": [1]},
        {"early_stopping": {"run": "rm"}},
        {"optimizer": None},
        {"epoch": {}},
    ):
        checkpoint.save(last, state | wrong)
        if wrong == {"epoch": {}}:
            checkpoint.save(last, {"identity": {}})
        with pytest.raises(UserError, match=r"last\.pt is not a state of this training: .*; remove it and run again"):
            fit(synthetic_images, parts, small, tmp_path)
