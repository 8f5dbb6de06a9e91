"""The tasks called as functions, with no server: what each leaves in the run's folder."""

import subprocess
import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from PIL import Image

from catae import run, settings
from catae.data import loader, split, synthetic
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.latent import space
from catae.model import weights
from catae.pipeline import lifecycle, stages
from catae.run import Run
from catae.settings import Settings
from catae.system import files
from catae.training import tensorboard


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole job of seconds."""
    resolved = Settings(
        source="drawn:120", image_size=32, latent_dim=16, width=8, max_epochs=2, samples=6, interpolation_steps=7,
        output_dir=tmp_path_factory.mktemp("artifacts"),
    )  # fmt: skip
    return jobs.whole(resolved)


def test_a_run_leaves_behind_what_the_readme_lists(done: Run, pytestconfig: pytest.Config) -> None:
    left = {path.relative_to(done.path).parts[0] for path in done.path.rglob("*") if path.is_file()}
    readme = (pytestconfig.rootpath / "README.md").read_text()
    assert left == {
        "run.json", "settings.json", "data.json", "split.json", "events", "checkpoints", "model.safetensors",
        "priors.safetensors", "curves.png", "reconstructions.png", "generated.png", "generated-gaussian.png",
        "interpolation.png", "interpolation.gif", "latents.png", "report.html", "nearest.png",
        "generated-unwhitened.png",
    } | ({"generated-best.png"} if done.generated_best.exists() else set())  # fmt: skip
    assert not [name for name in left if f"`{name}" not in readme]


def test_the_manifest_has_counts_scores_and_digests(done: Run) -> None:
    said = done.read()
    split = files.read_json(done.split)
    assert said["data"]["pictures"] == 120
    assert said["split"]["train"] == len(split["train"])
    assert said["split"]["test"] == len(split["test"]) == said["scores"]["pictures"]
    assert said["split"]["test_pixels_in_train"] == 0
    assert said["training"]["epochs"] == 2
    assert said["training"]["stop_reason"]
    assert said["digests"] == {
        "data": ImageStore(Path(said["data"]["store"])).digest,
        "split": files.digest(done.split),
        "weights": files.digest(done.model),
    }
    assert {"model", "pca", "mean_picture"} <= set(said["scores"])


def test_the_models_score_is_the_loss_of_its_best_epoch(done: Run) -> None:
    said = done.read()
    assert said["scores"]["model"]["l1"] == pytest.approx(said["training"]["best_loss"], rel=2e-3)  # bf16 in training


@torch.inference_mode()
def test_train_pictures_have_codes_like_n_0_i_in_the_model_that_is_handed_out(done: Run) -> None:
    """To 2 %: they were measured in training's arithmetic, which may be bfloat16, and are looked at in float32."""
    images = ImageStore(Path(done.read()["data"]["store"]))
    train = split.open_split(done.split, images.names).train
    codes = space.encode(weights.load(done.model), loader.ordered_loader(images, train)).flatten(1)
    torch.testing.assert_close(codes.mean(0), torch.zeros(codes.shape[1]), atol=0.02, rtol=0)
    torch.testing.assert_close(codes.T.cov(correction=0), torch.eye(codes.shape[1]), atol=0.02, rtol=0)


def test_every_picture_of_the_run_opens_and_is_no_plain_area(done: Run) -> None:
    for path in (
        done.curves, done.reconstructions, done.generated, done.generated_unwhitened, done.generated_gaussian,
        done.interpolation, done.animation,
        done.nearest,
        done.latents,
    ):  # fmt: skip
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 3, path


def test_the_library_imports_no_orchestrator() -> None:
    code = (
        "import pkgutil, importlib, sys, catae\n"
        "for module in pkgutil.iter_modules(catae.__path__): importlib.import_module(f'catae.{module.name}')\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('prefect', 'flows')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "[]"


def test_pictures_that_have_changed_since_a_run_was_interrupted_begin_it_anew_or_are_refused_as_the_user_says(
    small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cats = tmp_path / "cats"
    cats.mkdir()
    for number in range(40):
        synthetic.draw(number, 0, 32).save(cats / f"{number}.png")
    resolved = small.model_copy(update={"source": str(cats), "max_epochs": 1})

    def go(**changes: object) -> Run:
        chosen = resolved.model_copy(update=changes)
        with lifecycle.open_run(chosen, settings.origins()) as new:
            stages.run_stages(new, chosen, stages.TRAINING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go()
    first = run.find_run("latest", small.output_dir)
    synthetic.draw(99, 0, 32).save(cats / "99.png")
    with pytest.raises(UserError, match=rf"have changed since run {first.id} was interrupted; start a new run with"):
        go(resume=first.id)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert run.find_run("latest", small.output_dir).path == first.path
    assert "have changed since run" in caplog.text
    assert "is of another data and split" in caplog.text
    assert (first.read()["data"]["pictures"], first.read()["training"]["epochs"]) == (41, 1)
    assert list(tensorboard.read_scalars(first.events)["loss/train"]) == [1]
