"""What a real TensorBoard answers, and a browser shows, of a run's latents, settings and scores."""

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
from PIL import Image
from servers import background, free_port, until

from catae import atlas, batches, events, files, latent, projector, randomness, weights
from catae.images import ImageSet
from catae.run import Run
from catae.settings import Settings
from flows import tasks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two runs that have come as far as their map, by id; one of them twice, as after a kill near its end."""
    done = {}
    for dimensions, times in ((8, 1), (16, 2)):
        resolved = Settings(
            source="drawn:120", image_size=32, latent_dim=dimensions, width=4, max_epochs=2, test_fraction=0.3,
            output_dir=tmp_path_factory.mktemp("artifacts") if not done else next(iter(done.values())).path.parents[1],
        )  # fmt: skip
        run = jobs.train(resolved)
        for _ in range(times):
            tasks.train.fn(run.path, Path(run.read()["data"]["store"]), resolved)
            tasks.score.fn(run.path, Path(run.read()["data"]["store"]), resolved)
            tasks.map_latents.fn(run.path, Path(run.read()["data"]["store"]), resolved)
        done[run.id] = run
    return done


@pytest.fixture(scope="module")
def tensorboard(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard that shows both runs."""
    address, log = f"http://127.0.0.1:{(port := free_port())}", tmp_path_factory.mktemp("tensorboard") / "log"
    logdir = next(iter(runs.values())).path.parent
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)]
    with background(log, command, dict(os.environ)):
        until(lambda: answers(address), 60, log)
        names = {f"{name}/events/{part}" for name in runs for part in ("scalars", "pictures", "latents")}
        until(lambda: set(httpx.get(f"{address}/data/runs").json()) == names, 60, log)
        yield address


def answers(address: str) -> bool:
    """Whether it is there."""
    try:
        return httpx.get(f"{address}/data/environment").is_success
    except httpx.HTTPError:
        return False


def ask(address: str, **body: Any) -> Any:
    """What the HPARAMS tab is answered."""
    return httpx.post(f"{address}/data/plugin/hparams/{body.pop('route')}", json=body).raise_for_status().json()


def test_the_tab_of_hyperparameters_has_each_run_once_with_its_settings_and_final_scores(
    tensorboard: str, runs: dict[str, Run]
) -> None:
    experiment = until(lambda: ask(tensorboard, route="experiment"), 30)
    assert {"latent_dim", "learning_rate", "seed", "source"} <= {info["name"] for info in experiment["hparamInfos"]}
    tags = ("score/l1", "score/psnr", "score/ssim")
    metrics = [{"metric": {"group": "", "tag": tag}} for tag in tags]
    asked = {"startIndex": 0, "sliceSize": 100, "colParams": metrics, "allowedStatuses": ["STATUS_UNKNOWN"]}
    groups = until(lambda: ask(tensorboard, route="session_groups", **asked)["sessionGroups"], 30)
    assert sorted(group["name"] for group in groups) == sorted(runs)
    for group in groups:
        run = runs[group["name"]]
        (session,) = group["sessions"]
        assert session["name"] == f"{run.id}/events/scalars"
        assert group["hparams"]["latent_dim"] == files.read_json(run.settings)["latent_dim"]["value"]
        assert group["hparams"]["source"] == "drawn:120"
        reached = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        wanted = {f"score/{name}": run.read()["scores"]["model"][name] for name in ("l1", "psnr", "ssim")}
        assert {tag: reached[tag] for tag in tags} == pytest.approx(wanted)


def test_the_projector_has_the_codes_names_and_pictures_of_test_pictures(
    tensorboard: str, runs: dict[str, Run]
) -> None:
    there = f"{tensorboard}/data/plugin/projector"
    shown = until(lambda: httpx.get(f"{there}/runs").json(), 30)
    assert sorted(shown) == sorted(f"{name}/events/latents" for name in runs)
    for name, run in runs.items():
        image_set, test = ImageSet(Path(run.read()["data"]["store"])), files.read_json(run.split)["test"]
        asked = {"run": f"{name}/events/latents"}
        (embedding,) = httpx.get(f"{there}/info", params=asked).json()["embeddings"]
        asked["name"] = embedding["tensorName"]
        assert asked["name"] == f"latents of {len(test)} test pictures"

        positions = [image_set.names.index(name) for name in test]
        codes = latent.encode(weights.load(run.model), batches.ordered_loader(image_set, positions)).flatten(1)
        tensor = np.frombuffer(httpx.get(f"{there}/tensor", params=asked).content, np.float32)
        assert tensor.reshape(codes.shape) == pytest.approx(codes.numpy(), rel=1e-4, abs=1e-5)
        assert httpx.get(f"{there}/metadata", params=asked).text.splitlines() == test

        side = embedding["sprite"]["singleImageDim"][0]
        sheet = np.asarray(Image.open(io.BytesIO(httpx.get(f"{there}/sprite_image", params=asked).content)))
        rows = len(sheet) // side
        for number, pixels in enumerate(image_set.take(positions)):
            top, left = number // rows * side, number % rows * side
            assert np.array_equal(sheet[top : top + side, left : left + side], pixels)


def test_after_a_restart_scores_stand_once_and_later_training_leaves_them_where_they_are(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    with events.writing(tmp_path) as log:
        log.scalars(1, {"loss/test": 1.0})
    for number in (1, 2):
        events.write_final(tmp_path, "a run", {"latent_dim": 8}, {"score/l1": number / 10}, 1)
        with events.writing(tmp_path, first_epoch=2) as log:
            log.scalars(2, {"loss/test": 0.5})
    read = events.EventAccumulator(str(tmp_path / events.SCALARS))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("score/l1")] == [(1, pytest.approx(0.2))]
    assert [point.value for point in read.Scalars("loss/test")] == [1.0, 0.5]


def test_names_that_would_break_the_table_are_shown_as_escapes(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "map.png")
    codes = latent.randn(2, 3, randomness.generator(0, "codes"))
    projector.write(tmp_path, codes, ["a\tb\n.jpg", "Kätzchen.jpg"], pixels, tmp_path / "map.png", 1)
    names = (tmp_path / projector.LATENTS / projector.NAMES).read_text(encoding="utf-8")
    assert names == "a\\tb\\n.jpg\nKätzchen.jpg\n"


def test_a_sheet_of_the_most_pictures_is_within_what_the_projector_takes() -> None:
    sheet = projector.sprite(np.zeros((atlas.MOST, projector.SIDE, projector.SIDE, 3), np.uint8))
    assert sheet.shape == (2048, 2048, 3)
