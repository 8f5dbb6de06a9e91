"""The stages as plain functions, without Prefect: what each leaves in the folder of the run."""

import subprocess
import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from PIL import Image

from catae import run, settings
from catae.data import image_store, loader, split, synthetic
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.latent import space
from catae.model import weights
from catae.pipeline import lifecycle, stages
from catae.run import Run
from catae.settings import Settings
from catae.system import files
from catae.training import tensorboard


@pytest.fixture(scope="module", params=["spec", "tuned"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of each recipe with all stages done, in seconds."""
    resolved = Settings(
        recipe=request.param, source="drawn:120", image_size=32, latent_dim=16, width=8, max_epochs=2, samples=6,
        interpolation_steps=7, output_dir=tmp_path_factory.mktemp("artifacts"),
    )  # fmt: skip
    return jobs.run_all_stages(resolved)


def test_checkpoints_open_with_plain_torch_load(done: Run) -> None:
    last = torch.load(done.checkpoints / "last.pt", weights_only=True)
    best = torch.load(done.checkpoints / "best.pt", weights_only=True)
    assert last["epoch"] == 2
    assert best["model"].keys() == last["model"].keys()


def test_a_run_leaves_the_files_that_the_readme_lists(done: Run, pytestconfig: pytest.Config) -> None:
    written = {path.relative_to(done.path).parts[0] for path in done.path.rglob("*") if path.is_file()}
    readme = (pytestconfig.rootpath / "README.md").read_text()
    assert written == {
        "run.json", "settings.json", "data.json", "split.json", "events", "checkpoints", "model.safetensors",
        "priors.safetensors", "curves.png", "reconstructions.png", "generated.png", "generated-gaussian.png",
        "interpolation.png", "interpolation.gif", "latents.png", "report.html", "nearest.png",
        "generated-unwhitened.png",
    } | ({"generated-best.png"} if done.generated_best.exists() else set())  # fmt: skip
    assert not [name for name in written if f"`{name}" not in readme]


def test_the_manifest_has_counts_scores_and_digests(done: Run) -> None:
    manifest = done.read()
    split = files.read_json(done.split)
    assert manifest["data"]["pictures"] == 120
    assert manifest["split"]["train"] == len(split["train"])
    assert manifest["split"]["test"] == len(split["test"]) == manifest["scores"]["pictures"]
    assert manifest["split"]["test_pixels_in_train"] == 0
    assert manifest["training"]["epochs"] == 2
    assert manifest["training"]["stop_reason"]
    assert manifest["digests"] == {
        "data": ImageStore(Path(manifest["data"]["store"])).digest,
        "split": files.digest(done.split),
        "weights": files.digest(done.model),
    }
    assert {"model", "pca", "mean_picture"} <= set(manifest["scores"])


def test_the_score_is_the_loss_of_the_best_epoch(done: Run) -> None:
    manifest = done.read()
    assert manifest["scores"]["model"]["l1"] == pytest.approx(
        manifest["training"]["best_loss"], rel=2e-3
    )  # bf16 in training


@torch.inference_mode()
def test_train_latents_of_the_exported_model_have_mean_0_and_covariance_i(done: Run) -> None:
    """To 2%: they were measured in the precision of training, maybe bfloat16, and are compared in float32."""
    images = ImageStore(Path(done.read()["data"]["store"]))
    train = split.open_split(done.split, images.names).train
    latents = space.encode(weights.load(done.model), loader.ordered_loader(images, train)).flatten(1)
    torch.testing.assert_close(latents.mean(0), torch.zeros(latents.shape[1]), atol=0.02, rtol=0)
    torch.testing.assert_close(latents.T.cov(correction=0), torch.eye(latents.shape[1]), atol=0.02, rtol=0)


def test_every_image_of_the_run_opens_and_is_not_uniform(done: Run) -> None:
    for path in (
        done.curves, done.reconstructions, done.generated, done.generated_unwhitened, done.generated_gaussian,
        done.interpolation, done.animation,
        done.nearest,
        done.latents,
    ):  # fmt: skip
        with Image.open(path) as image:
            assert np.asarray(image.convert("RGB")).std() > 3, path


def test_importing_the_library_does_not_import_prefect() -> None:
    code = (
        "import pkgutil, importlib, sys, catae\n"
        "for module in pkgutil.walk_packages(catae.__path__, 'catae.'): importlib.import_module(module.name)\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('prefect', 'flows')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.strip() == "[]"


def test_images_that_changed_since_the_interruption_restart_the_run_or_are_an_error(
    small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cats = tmp_path / "cats"
    cats.mkdir()
    for number in range(40):
        synthetic.draw(number, 0, 32).save(cats / f"{number}.png")
    resolved = small.model_copy(update={"source": str(cats), "max_epochs": 1})

    def interrupt_run(**changes: object) -> Run:
        changed = resolved.model_copy(update=changes)
        with lifecycle.open_run(changed, settings.origins()) as new:
            stages.run_stages(new, changed, stages.TRAINING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt_run()
    first = run.find_run("latest", small.output_dir)
    synthetic.draw(99, 0, 32).save(cats / "99.png")
    with pytest.raises(UserError, match=rf"have changed since run {first.id} was interrupted; start a new run with"):
        interrupt_run(resume=first.id)
    with pytest.raises(KeyboardInterrupt):
        interrupt_run()
    assert run.find_run("latest", small.output_dir).path == first.path
    assert "have changed since run" in caplog.text
    assert "is of another data and split" in caplog.text
    assert (first.read()["data"]["pictures"], first.read()["training"]["epochs"]) == (41, 1)
    assert list(tensorboard.read_scalars(first.events)["loss/train"]) == [1]


def test_stages_are_called_in_order_with_the_images_locked_in_the_cache(small: Settings) -> None:
    calls = []

    def call(stage: stages.Stage, run: Run, settings: Settings) -> None:
        stages.call_stage(stage, run, settings)
        calls.append(stage)
        (cached,) = image_store.cached_sets(settings.output_dir / "cache")
        if stage is stages.split:
            assert not image_store.remove(cached)

    new = lifecycle.create_run(small, settings.origins())
    stages.run_stages(new, small, stages.TRAINING, call)
    assert calls == [stages.read, stages.split, stages.train]
    assert stages.STAGES[:3] == stages.TRAINING


def test_skipped_images_are_logged_in_one_line(
    small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cats = tmp_path / "cats"
    cats.mkdir()
    for number in range(5):
        synthetic.draw(number, 0, 32).save(cats / f"{number}.png")
    for name in ("a.svg", "b.svg"):
        (cats / name).write_text("<svg/>")
    (cats / "notes.txt").write_text("words")
    resolved = small.model_copy(update={"source": str(cats)})
    new = lifecycle.create_run(resolved, settings.origins())
    stages.run_stages(new, resolved, (stages.read,))
    lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert lines == [
        f"{cats}: skipped 2 of 7 images: 2 (a vector graphic: convert it to JPEG or PNG); {new.data} lists them"
    ]
    assert [file["name"] for file in files.read_json(new.data)["unsupported"]] == ["a.svg", "b.svg"]
    assert new.read()["data"]["unsupported"] == 2


def test_training_calls_back_after_each_epoch(small: Settings) -> None:
    new = lifecycle.create_run(small, settings.origins())
    stages.run_stages(new, small, (stages.read, stages.split))
    epochs: list[tuple[int, int]] = []
    outcome = stages.train(new, small, lambda epoch, max_epochs: epochs.append((epoch.number, max_epochs)))
    assert epochs == [(number, 3) for number in range(1, outcome.epochs + 1)]
