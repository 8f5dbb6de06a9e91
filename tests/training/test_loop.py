"""Test whole trainings: their results, interruptions, damaged checkpoints, and lack of disk space or memory."""

import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from catae.data import loader, split
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.errors import UserError
from catae.settings import Settings
from catae.system import hardware
from catae.training import checkpoint, loop, tensorboard, trainer
from catae.training.loop import Outcome
from catae.training.trainer import Trainer


@pytest.fixture(scope="module")
def parts(synthetic_images: ImageStore) -> Split:
    return split.split(synthetic_images.keys, test_fraction=0.3)


def fit(images: ImageStore, parts: Split, settings: Settings, folder: Path) -> Outcome:
    return loop.fit(images, parts, settings, folder / "events", folder / "checkpoints")


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / name)["model"]  # type: ignore[no-any-return]


def test_bf16_reaches_the_loss_of_fp32(
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


def test_linear_init_has_a_lower_first_loss_and_is_reproducible(
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


def test_a_width_without_linear_init_is_logged(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = small.model_copy(update={"activation": "relu", "width": 3, "max_epochs": 1})
    fit(synthetic_images, parts, settings, tmp_path)
    assert any(message.startswith("CATAE_INIT=pca needs a CATAE_WIDTH of at most 48") for message in caplog.messages)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_seed_determines_every_byte(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, precision: str
) -> None:
    small = small.model_copy(update={"precision": precision})
    for name in ("one", "two"):
        fit(synthetic_images, parts, small, tmp_path / name)
        torch.rand(3)  # the global generator must not matter
    assert (tmp_path / "one/checkpoints/last.pt").read_bytes() == (tmp_path / "two/checkpoints/last.pt").read_bytes()
    fit(synthetic_images, parts, small.model_copy(update={"seed": 1}), tmp_path / "three")
    one, three = weights(tmp_path / "one", "last.pt"), weights(tmp_path / "three", "last.pt")
    assert not torch.equal(one["encoder.layers.0.weight"], three["encoder.layers.0.weight"])


def test_the_loss_falls_and_each_epoch_is_logged(
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


def test_early_stopping_keeps_the_best_weights(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    # No epoch improves by 90 %, so the first one stays the best.
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


def test_validation_images_decide_if_there_are_any(
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


def test_a_loss_that_is_not_finite_is_one_line(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=r"training diverged in epoch 1: the loss is .*nan.*; lower CATAE_LEARNING_RATE, which is 1e\+30",
    ):
        fit(synthetic_images, parts, small.model_copy(update={"learning_rate": 1e30}), tmp_path)


def test_sample_images_are_logged_in_a_separate_folder(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    fit(synthetic_images, parts, small.model_copy(update={"max_epochs": 5}), tmp_path)
    log = EventAccumulator(str(tmp_path / "events/pictures"), size_guidance={"images": 0})
    log.Reload()
    assert set(log.Tags()["images"]) == {"reconstructions", "samples"}
    assert [point.step for point in log.Images("reconstructions")] == [1, 5]
    assert (tmp_path / "events/scalars").stat().st_size < 20_000


def test_a_resumed_training_ends_with_identical_bytes(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    """Interruptions at every batch, and between the epochs."""
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
            # Every completed step is saved.
            every_step = settings.model_copy(update={"checkpoint_minutes": 1e-9})
            with pytest.raises(Killed):
                fit(synthetic_images, parts, every_step, folder)
        outcome = fit(synthetic_images, parts, settings, folder)
        assert outcome.epochs == 2
        assert state_of(folder) == expected
        curves = tensorboard.read_scalars(folder / "events")
        assert list(curves["loss/test"]) == [1, 2]
        assert curves["loss/test"] == tensorboard.read_scalars(tmp_path / "whole/events")["loss/test"]


def state_of(folder: Path) -> dict[str, bytes]:
    """Return the last state, without its seconds, and the best model, as bytes."""
    contents = {}
    for name in ("last.pt", "best.pt"):
        state = checkpoint.load(folder / "checkpoints" / name)
        if name == "last.pt":
            state["progress"]["seconds"] = 0.0
        data = io.BytesIO()
        torch.save(state, data)
        contents[name] = data.getvalue()
    return contents


def test_a_finished_training_does_not_continue(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path
) -> None:
    first = fit(synthetic_images, parts, small, tmp_path)
    before = (tmp_path / "checkpoints/last.pt").read_bytes()
    assert fit(synthetic_images, parts, small, tmp_path) == first
    assert (tmp_path / "checkpoints/last.pt").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "missing"])
def test_a_damaged_checkpoint_resumes_from_the_previous_one(
    synthetic_images: ImageStore,
    parts: Split,
    small: Settings,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit(synthetic_images, parts, small, tmp_path / "whole")
    fit(synthetic_images, parts, small, tmp_path / "damaged")
    last = tmp_path / "damaged/checkpoints/last.pt"
    data = last.read_bytes()
    if damage == "truncated":
        last.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        last.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "foreign":
        checkpoint.save(tmp_path / "foreign.pt", checkpoint.load(last) | {"identity": {"data": "foreign"}})
        last.write_bytes((tmp_path / "foreign.pt").read_bytes())
    else:
        last.unlink()
    caplog.set_level(logging.INFO)
    fit(synthetic_images, parts, small, tmp_path / "damaged")
    assert ("trying the previous checkpoint" in caplog.text) == (damage != "missing")
    assert "resuming after epoch" in caplog.text
    assert state_of(tmp_path / "damaged") == state_of(tmp_path / "whole")


def test_too_little_disk_space_is_one_line_before_training(
    synthetic_images: ImageStore, parts: Split, small: Settings, tiny_disk: Path
) -> None:
    wide = small.model_copy(update={"width": 32})
    with pytest.raises(UserError, match=r"has [34]\.\d MB free, but \d+\.\d MB are needed; free some"):
        fit(synthetic_images, parts, wide, tiny_disk / "run")
    assert not (tiny_disk / "run/checkpoints").exists()


def test_a_full_disk_is_one_line_and_training_resumes_once_there_is_space(
    synthetic_images: ImageStore, parts: Split, small: Settings, tiny_disk: Path, tmp_path: Path
) -> None:
    settings = small.model_copy(update={"max_epochs": 4, "width": 4})
    fit(synthetic_images, parts, settings, tmp_path / "whole")
    step, filler = trainer.step, tiny_disk / "filler"
    steps = iter(range(1, 100))

    def filling_step(*given: Any) -> torch.Tensor:
        if next(steps) == 4:  # in the second epoch, of 2 steps each
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


def test_a_batch_too_large_for_memory_is_one_line_before_training(
    synthetic_images: ImageStore, parts: Split, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 2e6)
    message = r"width 8 and batches of \d+ needs about 0\.0 GB of memory, but 0\.0 GB are available; lower CATAE_BATCH"
    with pytest.raises(UserError, match=rf"training with {message}"):
        fit(synthetic_images, parts, small, tmp_path)


def test_memory_that_runs_out_during_training_is_one_line(tmp_path: Path) -> None:
    """The process has a memory limit that the estimate does not know."""
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
    message = "training with width 48 and batches of 512 ran out of memory; lower CATAE_BATCH_SIZE or CATAE_WIDTH"
    assert ran.stderr == f"{message}, or provide more memory\n"


def test_an_intact_but_unsuitable_checkpoint_is_one_line(
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
