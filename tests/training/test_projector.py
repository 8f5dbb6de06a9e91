"""Test what a real TensorBoard server returns for a run's latents, settings and scores."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jobs
import numpy as np
import pytest
import torch
from PIL import Image
from servers import background, free_port, until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from catae.data import loader
from catae.data.image_store import ImageStore
from catae.latent import projection, space
from catae.pipeline import stages
from catae.run import Run
from catae.settings import Settings
from catae.system import files
from catae.training import loop
from catae.training import tensorboard as events

TAGS = ("score/l1", "score/psnr", "score/ssim")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Return two trained and scored runs, by id."""
    artifacts, done = tmp_path_factory.mktemp("artifacts"), {}
    for dimensions in (8, 16):
        resolved = Settings(
            source="drawn:120", image_size=32, latent_dim=dimensions, width=4, max_epochs=2, test_fraction=0.3,
            output_dir=artifacts,
        )  # fmt: skip
        run = jobs.train(resolved)
        stages.score(run, resolved)
        done[run.id] = run
    return done


@pytest.fixture(scope="module")
def tensorboard(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start TensorBoard before the runs log their results, which they do twice, as after a kill; return its address."""
    address, log = f"http://127.0.0.1:{(port := free_port())}", tmp_path_factory.mktemp("tensorboard") / "log"
    logdir = str(next(iter(runs.values())).path.parent)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--port", str(port)]
    with background(log, [*command, "--reload_interval", "1"], dict(os.environ)):
        until(lambda: answers(address), log)
        until(lambda: has(address, runs, "scalars", "pictures"), log)
        assert httpx.get(f"{address}/data/plugin/projector/runs").json() == []
        for run in (*runs.values(), *runs.values()):
            values = {name: setting["value"] for name, setting in files.read_json(run.settings).items()}
            stages.map_latents(run, Settings(**values))
            stages.log_results(run, Settings(**values))
        until(lambda: has(address, runs, "scalars", "pictures", "final"), log)
        yield address


def images(run: Run) -> Path:
    """Return the folder of the run's image store."""
    return Path(run.read()["data"]["store"])


def has(address: str, runs: dict[str, Run], *parts: str) -> bool:
    """Return whether TensorBoard has exactly these parts of the runs."""
    return set(httpx.get(f"{address}/data/runs").json()) == {f"{name}/events/{part}" for name in runs for part in parts}


def answers(address: str) -> bool:
    """Return whether TensorBoard responds."""
    try:
        return httpx.get(f"{address}/data/environment").is_success
    except httpx.HTTPError:
        return False


def ask(address: str, **body: Any) -> Any:
    """Return the response to a request of the HPARAMS tab."""
    return httpx.post(f"{address}/data/plugin/hparams/{body.pop('route')}", json=body).raise_for_status().json()


def test_the_hparams_tab_has_each_run_once_with_settings_and_scores(tensorboard: str, runs: dict[str, Run]) -> None:
    experiment = until(lambda: ask(tensorboard, route="experiment", includeMetrics=True))
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == list(TAGS)
    assert {"latent_dim", "learning_rate", "seed", "source"} <= {info["name"] for info in experiment["hparamInfos"]}
    metrics = [{"metric": {"group": "", "tag": tag}} for tag in TAGS]
    query = {"startIndex": 0, "sliceSize": 100, "colParams": metrics, "allowedStatuses": ["STATUS_UNKNOWN"]}
    groups = until(lambda: ask(tensorboard, route="session_groups", **query)["sessionGroups"])
    assert sorted(group["name"] for group in groups) == sorted(runs)
    for group in groups:
        run = runs[group["name"]]
        (session,) = group["sessions"]
        assert session["name"] == f"{run.id}/events/final"
        assert group["hparams"]["latent_dim"] == files.read_json(run.settings)["latent_dim"]["value"]
        assert group["hparams"]["source"] == "drawn:120"
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        expected = {f"score/{name}": run.read()["scores"]["model"][name] for name in ("l1", "psnr", "ssim")}
        assert {tag: values[tag] for tag in TAGS} == pytest.approx(expected)


def test_the_projector_has_latents_names_and_images(tensorboard: str, runs: dict[str, Run]) -> None:
    plugin = f"{tensorboard}/data/plugin/projector"
    known = until(lambda: httpx.get(f"{plugin}/runs").json())
    assert sorted(known) == sorted(f"{name}/events/final" for name in runs)
    for name, run in runs.items():
        image_set, test = ImageStore(images(run)), files.read_json(run.split)["test"]
        query = {"run": f"{name}/events/final"}
        (embedding,) = httpx.get(f"{plugin}/info", params=query).json()["embeddings"]
        query["name"] = embedding["tensorName"]
        assert query["name"] == f"latents of {len(test)} test images"

        positions = [image_set.names.index(name) for name in test]
        latents = space.encode(loop.load_best(run.checkpoints), loader.ordered_loader(image_set, positions)).flatten(1)
        tensor = np.frombuffer(httpx.get(f"{plugin}/tensor", params=query).content, np.float32)
        assert tensor.reshape(latents.shape) == pytest.approx(latents.numpy(), rel=1e-4, abs=1e-5)
        assert httpx.get(f"{plugin}/metadata", params=query).text.splitlines() == test

        side = embedding["sprite"]["singleImageDim"][0]
        sheet = np.asarray(Image.open(io.BytesIO(httpx.get(f"{plugin}/sprite_image", params=query).content)))
        rows = len(sheet) // side
        for number, pixels in enumerate(image_set.take(positions)):
            top, left = number // rows * side, number % rows * side
            assert np.array_equal(sheet[top : top + side, left : left + side], pixels)


@pytest.mark.usefixtures("tensorboard")
def test_after_a_restart_each_score_has_one_point(runs: dict[str, Run]) -> None:
    for run in runs.values():
        log = EventAccumulator(str(run.events / events.FINAL))
        log.Reload()
        assert [(point.step, point.value) for point in log.Scalars("score/l1")] == [
            (run.read()["training"]["best_epoch"], pytest.approx(run.read()["scores"]["model"]["l1"]))
        ]
        assert len(log.Images("latents")) == 1
        assert len(events.read_scalars(run.events)["loss/test"]) == 2


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    pixels, latents = np.zeros((2, 8, 8, 3), np.uint8), torch.zeros(2, 3, 1, 1)
    events.write_embedding(tmp_path, latents, ["a\tb\n.jpg", "Kätzchen.jpg"], pixels)
    names = (tmp_path / events.FINAL / events.NAMES).read_text(encoding="utf-8")
    assert names == "a\\tb\\n.jpg\nKätzchen.jpg\n"


def test_the_largest_sprite_sheet_is_within_the_projectors_limit() -> None:
    sheet = events.sprite(np.zeros((projection.MOST, events.SPRITE_SIDE, events.SPRITE_SIDE, 3), np.uint8))
    assert sheet.shape == (2048, 2048, 3)
