"""The report of a small run folder whose images and JSON files have the structure of real ones."""

import base64
import copy
import hashlib
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import HOSTILE, WIDTHS, Page, browsing, check_in_browser, needs_chromium
from PIL import Image, ImageSequence

from catae.report import figures, html, run_report
from catae.run import Run
from catae.settings import Settings

IMAGES = (
    "curves.png",
    "reconstructions.png",
    "latents.png",
    "generated-unwhitened.png",
    "generated.png",
    "generated-best.png",
    "nearest.png",
    "interpolation.gif",
    "interpolation.png",
)  # in the order of the page
COMPRESSED = {"latents.png", "generated-unwhitened.png", "generated-best.png", "nearest.png"}

MANIFEST: dict[str, Any] = {
    "id": "20261124-171815",
    "state": "running",
    "started": "2026-11-24T17:18:15+00:00",
    "machine": {
        "cpu": "AMD EPYC",
        "cpus": 2,
        "system": "Linux x86_64",
        "python": "3.11.7",
        "packages": {"catae": "0.1.0", "torch": "2.14.1"},
    },
    "data": {"source": "../cats.zip", "pictures": 15747, "distinct": 9303, "mirrored": 0, "near": 80, "rejects": 0},
    "digests": {"data": "a" * 64, "split": "b" * 64, "weights": "c" * 64},
    "split": {
        "train": 14057,
        "test": 1690,
        "validation": 0,
        "dropped": 0,
        "distinct_test": 989,
        "test_pixels_in_train": 0,
        "test_copies_in_train": 0,
    },
    "training": {
        "epochs": 31,
        "best_epoch": 28,
        "best_loss": 0.09234,
        "monitor": "test",
        "stop_reason": "the test loss fell by no more than 0.1% for 3 epochs in a row",
        "seconds": 750.3,
        "seconds_per_epoch": 24.2,
        "precision": "bf16",
        "precision_because": "the CPU has bf16 instructions (amx_bf16)",
    },
    "latents": {
        "train": {
            "pictures": 14057,
            "norm": 31.27,
            "effective_rank": 61.3,
            "distance": 2.14,
            "deviations": [5.1, 3.2, 1.4],
        },
        "test": {
            "pictures": 1690,
            "norm": 31.08,
            "effective_rank": 60.9,
            "distance": 2.11,
            "deviations": [5.2, 3.1, 1.3],
        },
        "folded": {
            "pictures": 1690,
            "norm": 11.41,
            "effective_rank": 120.1,
            "distance": 0.17,
            "deviations": [1.2, 1.0, 0.8],
        },
        "normal": {
            "pictures": 1690,
            "norm": 11.29,
            "effective_rank": 123.4,
            "distance": 0.14,
            "deviations": [1.1, 1.0, 0.9],
        },
    },
    "interpolation": ["cats/7978.jpg", "cats/139.jpg"],
    "generation": {
        "pictures": 1690,
        "floor": {"mean": 8.0, "levels": {"64x64": 7.0, "32x32": 8.0, "16x16": 9.0}},
        "restorations": {"mean": 61.04, "levels": {"64x64": 150.0, "32x32": 20.0, "16x16": 13.12}},
        "distances": {
            name: {"mean": mean, "levels": {"64x64": mean + 5, "32x32": mean, "16x16": mean - 5}}
            for name, mean in (("randn", 310.0), ("gaussian", 90.0), ("mixture", 80.26), ("neighbours", 84.0))
        },
        "best": "mixture",
        "nearest": {
            "pictures": 128,
            "train": 14057,
            "samples": 0.151,
            "test": 0.162,
            "restorations": 0.153,
            "copies": 0.074,
        },
    },
    "scores": {
        "pictures": 1690,
        "fitted_on": 14057,
        "pca_components": 128,
        "model": {"l1": 0.09, "l1_unit": 0.045, "psnr": 23.41, "ssim": 0.7412},
        "pca": {"l1": 0.1, "l1_unit": 0.05, "psnr": 24.02, "ssim": 0.7391},
        "mean_picture": {"l1": 0.4, "l1_unit": 0.2, "psnr": 12.7, "ssim": 0.2212},
    },
}
DATA: dict[str, Any] = {
    "source": "../cats.zip",
    "image_size": 64,
    "files": 15747,
    "pictures": 15747,
    "distinct": 9303,
    "mirrored": 2,
    "near": 80,
    "plain_split_leak": 0.7511,
    "groups": [[f"cats/{n}.jpg", f"cats/{n + 9303}.jpg"] for n in range(100)],
    "group_count": 6407,
    "original_sizes": {"64x64": 15747},
    "modes": {"RGB": 15747},
    "rejects": [],
    "notes": [],
    "passed_over": [],
}
GIVEN = {"source": "../cats.zip", "max_epochs": 40}
ORIGINS = {"source": "given", "max_epochs": "environment"}


def make_run(folder: Path, manifest: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> Run:
    """Write a run's folder with small images; some facts of `run.json` and `data.json` are replaced."""
    run = Run(folder)
    facts = copy.deepcopy(MANIFEST)
    for name, value in (manifest or {}).items():
        facts[name] = {**facts[name], **value} if isinstance(value, dict) else value
    values = Settings.model_construct(**GIVEN).model_dump(mode="json")
    origins = {name: {"value": value, "from": ORIGINS.get(name, "default")} for name, value in values.items()}
    for path, content in ((run.manifest, facts), (run.data, {**DATA, **(data or {})}), (run.settings, origins)):
        path.write_text(json.dumps(content))
    random = np.random.default_rng(0)
    for name in IMAGES:
        if name.endswith(".png"):
            Image.fromarray(random.integers(0, 256, (60, 90, 3), np.uint8)).save(folder / name)
    frames = [Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).resize((48, 48), 0) for _ in range(4)]
    frames[0].save(run.animation, save_all=True, append_images=frames[1:], duration=[700, 60, 700, 60], loop=0)
    return run


def written(folder: Path, **changes: Any) -> Page:
    """Write the report of a run and parse it."""
    run = make_run(folder, **changes)
    run_report.write_run_report(run)
    return Page(run.report.read_text())


def scores(model: float, pca: float, mean: float) -> dict[str, Any]:
    """Return the scores of a run with these L1 errors."""
    facts = copy.deepcopy(MANIFEST["scores"])
    for name, l1 in (("model", model), ("pca", pca), ("mean_picture", mean)):
        facts[name] |= {"l1": l1, "l1_unit": l1 / 2}
    return facts


def frames_of(image: Image.Image) -> list[tuple[np.ndarray, int]]:
    """Return the frames of an image with their durations."""
    return [(np.asarray(f.convert("RGB")), f.info.get("duration", 0)) for f in ImageSequence.Iterator(image)]


# The page


def test_page_is_self_contained(tmp_path: Path) -> None:
    page = written(tmp_path)
    addresses = [attributes[name] for _, attributes in page.tags for name in ("src", "srcset") if name in attributes]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    assert all(re.fullmatch(r"#[a-z]+|data:,|[a-z-]+(\.[a-z]+|/)", link) for link in links), links
    assert not re.search(r"url\(|@import", page.style)
    assert "default-src 'none'" in page.html


def test_the_policy_allows_only_the_sliders_script(tmp_path: Path) -> None:
    page = written(tmp_path)
    (policy,) = [attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes]
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]
    assert page.all("script") == [{"type": "module"}]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_figures_that_show_model_quality_are_lossless(tmp_path: Path) -> None:
    page = written(tmp_path)
    shown = page.all("img")
    assert len(shown) == len(IMAGES)
    for name, attributes in zip(IMAGES, shown, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))) as inside:
            in_page = frames_of(inside)
        with Image.open(tmp_path / name) as file:
            in_run = frames_of(file)
        size = in_run[0][0].shape
        assert (attributes["height"], attributes["width"]) == (str(size[0]), str(size[1]))
        for (got, got_ms), (want, want_ms) in zip(in_page, in_run, strict=True):
            scale = want.shape[0] // got.shape[0]  # the browser enlarges it, without smoothing
            same = np.array_equal(got.repeat(scale, 0).repeat(scale, 1), want)
            assert same or name in COMPRESSED, name
            assert got_ms == want_ms


def test_stays_under_3_mb_with_a_gif_of_more_than_1_mb(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, (70, 64, 64), np.uint8).repeat(3, 1).repeat(3, 2)
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(run.animation, save_all=True, append_images=frames[1:], duration=60, loop=0)
    assert run.animation.stat().st_size > 1_000_000
    Image.fromarray(random.integers(0, 256, (998, 572, 3), np.uint8)).save(run.duplicates)  # as large as it gets
    run_report.write_run_report(run)
    assert run.report.stat().st_size < 3_000_000


def test_page_is_accessible(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert page.all("html") == [{"lang": "en"}]
    assert any(attributes.get("name") == "viewport" for attributes in page.all("meta"))
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise([0, *levels]))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    targets |= {button["popovertarget"] for button in page.all("button")}
    assert targets == set(identifiers)


# Its content


def test_title_has_source_settings_and_duration(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert "cats.zip · latent size 128 · seed 0" in text
    assert "Started on 24 November 2026, 17:18 UTC. Trained on 14,057 images for 31 epochs, in 12 min 30 s." in text


def test_verdict_when_the_model_beats_pca(tmp_path: Path) -> None:
    text = written(tmp_path, manifest={"scores": scores(0.09, 0.1, 0.4)}).text
    assert "In L1 error, the model beats PCA-128." in text
    assert (
        "On 1,690 test images, the model's L1 error is 0.0900: 10% below PCA-128 (0.1000) and 78% below the mean image "
        "(0.4000)." in text
    )
    assert "Compared with PCA-128, the model's PSNR is 0.61 dB lower and its SSIM is 0.0021 higher." in text


def test_verdict_when_the_model_loses_to_pca(tmp_path: Path) -> None:
    text = written(tmp_path, manifest={"scores": scores(0.125, 0.1, 0.4)}).text
    assert "In L1 error, the model loses to PCA-128." in text
    assert "0.1250: 25% above PCA-128" in text
    assert "beats" not in text


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ((0.1, 0.1, 0.4), "the model is level with PCA-128."),
        ((0.10004, 0.1, 0.4), "the model is level with PCA-128."),
        ((0.5, 0.1, 0.4), "the model loses to PCA-128, and is no better than the mean image."),
        ((0.3, 0.4, 0.3), "the model beats PCA-128, and is no better than the mean image."),
    ],
)
def test_headline_states_every_outcome(errors: tuple[float, float, float], words: str) -> None:
    assert run_report.headline(scores(*errors)) == f"In L1 error, {words}"


@pytest.mark.parametrize(
    ("value", "reference", "words"),
    [
        (0.965, 1, "3.5% below"),
        (1.035, 1, "3.5% above"),
        (0.5, 1, "50% below"),
        (2.6, 1, "160% above"),
        (1.0004, 1, "level with"),
        (0.1, 0, "above"),
        (0, 0, "level with"),
    ],
)
def test_difference_states_percentage_and_side(value: float, reference: float, words: str) -> None:
    assert run_report.difference(value, reference) == words


def test_scores_state_their_images_and_baselines(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert "1,690 test images (989 distinct; duplicates count each time)" in text
    assert "fitted on the same 14,057 train images" in text
    assert "It is the best linear autoencoder of this latent size" in text
    assert "The test images also decided when training stopped and which epoch was kept." in text


def test_score_table_underlines_the_best_of_each_column(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert "Model 0.0900 0.0450 23.41 0.7412" in page.rows()
    assert "PCA-128 0.1000 0.0500 24.02 0.7391" in page.rows()
    assert "Mean image 0.4000 0.2000 12.70 0.2212" in page.rows()
    assert re.findall("<b>(.*?)</b>", page.html) == ["0.0900", "0.0450", "0.7412", "24.02"]


def test_distances_stand_next_to_the_floor_and_state_their_images(tmp_path: Path) -> None:
    page = written(tmp_path)
    rows = page.rows()
    assert "Images Mean 64x64 32x32 16x16" in rows
    assert "Train images 8.0 7.0 8.0 9.0" in rows
    assert "Reconstructions of the test images 61.0 150.0 20.0 13.1" in rows
    assert "Samples of N(0, I) 310.0 315.0 310.0 305.0" in rows
    assert "Samples of a mixture of Gaussians 80.3 85.3 80.3 75.3" in rows
    assert "The distance of 1,690 images of each kind from 1,690 test images" in page.text
    assert "the nearest of 14,057 train images is 0.151 for 128 samples of mixture, 0.162 for as many" in page.text


def test_the_nearest_prior_has_a_figure_only_if_it_is_not_shown_above(tmp_path: Path) -> None:
    run = make_run(tmp_path, manifest={"generation": {"best": "gaussian"}})
    run.generated_best.unlink()
    run_report.write_run_report(run)
    page = Page(run.report.read_text())
    assert len(page.all("img")) == len(IMAGES) - 1
    assert "Nearest among the samples: those of gaussian." in page.text


def test_states_if_pca_has_fewer_components_than_the_latent(tmp_path: Path) -> None:
    note = "It has fewer components than the latent has dimensions, because the train images span no more."
    assert note not in written(tmp_path).text
    assert note in written(tmp_path, manifest={"scores": {"pca_components": 20}}).text


def test_states_that_no_test_image_has_a_duplicate_in_train(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert (
        "None of them has a duplicate in train: no identical image (test_pixels_in_train is 0), no near-duplicate and"
        in text
    )
    assert "no flipped image (test_copies_in_train is 0)." in text
    assert "Warning" not in text


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"test_pixels_in_train": 3, "test_copies_in_train": 5},
            "The train set holds duplicates of 5 test images (of 1,690): 3 identical, "
            "the others near-duplicates or flipped.",
        ),
        (
            {"test_pixels_in_train": 0, "test_copies_in_train": 1, "validation": 310},
            "The train set holds duplicates of 1 test or validation image (of 2,000): 0 identical, "
            "the others near-duplicates or flipped.",
        ),
    ],
)
def test_warns_if_a_test_image_has_a_duplicate_in_train(tmp_path: Path, parts: dict[str, int], words: str) -> None:
    page = written(tmp_path, manifest={"split": parts})
    assert f"Warning: {words} The scores on this page are too good" in page.text
    assert f"this split leaves {parts['test_copies_in_train']}." in page.text
    assert "None of them has a duplicate" not in page.text
    assert {"class": "warning", "role": "alert"} in page.all("p")


def test_scores_are_unbiased_with_validation_images(tmp_path: Path) -> None:
    validated = {"split": {"validation": 1500}, "training": {"monitor": "validation"}}
    page = written(tmp_path, manifest=validated)
    assert (
        "The test images had no part in training or early stopping: 1,500 validation images decided when" in page.text
    )
    assert "So the scores are unbiased." in page.text
    assert "optimistic" not in page.text
    assert "a validation loss of 0.0923 on 1,500 images" in page.text
    assert "only if its validation loss is" in page.text
    assert any(str(attributes["alt"]).startswith("Train, validation and test loss") for attributes in page.all("img"))


def test_scores_are_optimistic_without_validation_images(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert "So the model's scores are slightly optimistic" in text
    assert "unbiased" not in text
    assert "alidation loss" not in text


def test_curves_state_why_training_stopped_and_the_best_epoch(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert "Training ended after 31 epochs: the test loss fell by no more than 0.1% for 3 epochs in a row." in text
    assert (
        "The weights are those of epoch 28, with a test loss of 0.0923 on 1,690 images. An epoch took 24 s (median)"
        in text
    )


def test_interpolation_states_its_ends_and_its_formula(tmp_path: Path) -> None:
    text = written(tmp_path).text
    assert "z = (1 - alpha) * A + alpha * B" in text
    assert "two test images, cats/7978.jpg and cats/139.jpg, chosen by the seed. Alpha goes from 0 to 1 in 50" in text


def test_hostile_file_names_are_escaped(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        manifest={"interpolation": [HOSTILE, HOSTILE]},
        data={
            "source": HOSTILE,
            "groups": [[HOSTILE, HOSTILE]],
            "rejects": [{"name": HOSTILE, "reason": HOSTILE}],
            "notes": [{"name": HOSTILE, "note": HOSTILE}],
            "passed_over": [HOSTILE],
        },
    )
    assert page.text.count(HOSTILE) == 10  # source, two ends, two duplicates, reject, note, skipped file
    assert len(page.all("script")) == 1
    assert "alert" not in page.script
    assert len(page.all("img")) == len(IMAGES)


@pytest.mark.parametrize(("kind", "key"), [("rejects", "reason"), ("notes", "note")])
def test_names_the_first_rejects_and_notes_and_counts_the_rest(tmp_path: Path, kind: str, key: str) -> None:
    page = written(tmp_path, data={kind: [{"name": f"bad-{n:02}.jpg", key: "the file is odd"} for n in range(23)]})
    assert [row for row in page.rows() if "bad-" in row] == [f"bad-{n:02}.jpg the file is odd" for n in range(20)]
    assert "and 3 more, listed in data.json." in page.text


def test_counts_duplicates_and_the_leak_of_a_random_split(tmp_path: Path) -> None:
    text = written(tmp_path).text
    for fact in ("Duplicates6,444 identical", "Flipped2", "Near-duplicates80", "Groups6,407"):
        assert fact in text
    assert (
        "A random split by file would leave 75% of test images with a duplicate in train; this split leaves 0." in text
    )


def test_names_the_largest_groups_and_counts_the_rest(tmp_path: Path) -> None:
    page = written(tmp_path, data={"groups": [[f"{n}.jpg" for n in range(11)], *DATA["groups"][:99]]})
    groups = [row for row in page.rows() if re.match(r"\d+ [^ ]+\.jpg", row)]
    assert groups[:2] == [
        "11 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg and 3 more",
        "2 cats/0.jpg, cats/9303.jpg",
    ]
    assert len(groups) == 12
    assert "and 6,395 more groups; the largest 100 of 6,407 are listed in data.json." in page.text


def test_shows_the_figure_of_duplicates_if_there_is_one(tmp_path: Path) -> None:
    assert "duplicates.png" not in written(tmp_path).html
    Image.new("RGB", (572, 998)).save(tmp_path / "duplicates.png")
    page = written(tmp_path)
    assert len(page.all("img")) == len(IMAGES) + 1
    assert {"alt": "Rows of images, each a group of duplicates.", "width": "572", "height": "998"}.items() <= {
        name: value for image in page.all("img") for name, value in image.items() if "duplicates" in str(image["alt"])
    }.items()
    assert "duplicates.png" in [a["href"] for a in page.all("a")]


def test_states_that_there_are_no_duplicates_and_no_rejects(tmp_path: Path) -> None:
    page = written(tmp_path, data={"distinct": 15747, "mirrored": 0, "near": 0, "groups": [], "group_count": 0})
    assert "There are no duplicates, near-duplicates or flipped images." in page.text
    assert "None: every image file could be decoded." in page.text
    assert "Notes" not in page.text


def test_all_settings_are_shown_and_changed_ones_are_bold(tmp_path: Path) -> None:
    page = written(tmp_path)
    rows = page.rows()
    for name, setting in json.loads((tmp_path / "settings.json").read_text()).items():
        value = "(empty)" if setting["value"] == "" else setting["value"]
        assert f"{name} {value} {setting['from']}" in rows
    assert [attributes.get("class") for attributes in page.all("tr")].count("given") == len(GIVEN)


def test_links_only_to_existing_files(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.model.write_bytes(b"weights")
    run.events.mkdir()
    run_report.write_run_report(run)
    links = [a["href"] for a in Page(run.report.read_text()).all("a") if not a["href"].startswith("#")]
    assert {"model.safetensors", "events/", "run.json", *IMAGES} <= set(links)
    assert all((tmp_path / link).exists() for link in links)


def test_machine_versions_and_digests_are_shown(tmp_path: Path) -> None:
    text = written(tmp_path).text
    for fact in (
        "AMD EPYC",
        "bf16: the CPU has bf16 instructions (amx_bf16)",
        "Linux x86_64",
        "2.14.1",
        "a" * 64,
        "b" * 64,
        "c" * 64,
    ):
        assert fact in text


def test_latents_state_their_images_and_the_reference(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert "Train images 14,057 31.27 61.3 2.14 1.40 to 5.10" in page.rows()
    assert "Test images 1,690 31.08 60.9 2.11 1.30 to 5.20" in page.rows()
    assert "Samples of N(0, I) 1,690 11.29 123.4 0.14 0.90 to 1.10" in page.rows()
    assert "Norm mean Rank effective Distance from N(0, I) Deviations min to max" in page.rows()[4]
    assert "of 14,057 train images and 1,690 test images" in page.text


# In a browser


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_every_image_without_scrolling_or_requests(tmp_path: Path, scheme: str) -> None:
    rejects = [{"name": f"{HOSTILE}{'long' * 40}", "reason": "no picture " * 20}]
    run = make_run(tmp_path, data={"rejects": rejects, "source": f"/data/{'cats' * 60}.zip"})
    Image.new("RGB", (572, 998)).save(run.duplicates)
    run_report.write_run_report(run)
    check_in_browser(
        run.report, scheme, len(IMAGES) + 1, one_line=".settings td:last-child, .settings tr:not(.given) td"
    )


STEPS = np.random.default_rng(2).integers(0, 256, (52, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report whose interpolation of 50 steps is drawn as a job draws it."""
    run = make_run(tmp_path_factory.mktemp("run"), data={"image_size": 16})
    figures.grid(STEPS, run.interpolation, "A to B\nin 50 steps")
    run_report.write_run_report(run)
    return run.report


def step_shown(tab: Any) -> np.ndarray:
    """Return the pixels of the slider's image."""
    address = tab.evaluate("document.querySelector('.steps canvas').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_the_slider_shows_every_step_and_the_arrow_keys_move_it(report_page: Path, width: int) -> None:
    with browsing(viewport={"width": width, "height": 800}) as tab:
        tab.goto(report_page.as_uri())
        slider = tab.get_by_role("slider")
        slider.wait_for()
        assert tab.locator("output").inner_text() == "Step 1 of 50, alpha = 0.00"
        for step in (1, 2, 7, 8, 49, 50):
            slider.fill(str(step))
            assert np.array_equal(step_shown(tab), STEPS[step].repeat(2, 0).repeat(2, 1)), step
        assert tab.locator("output").inner_text() == "Step 50 of 50, alpha = 1.00"
        slider.focus()
        tab.keyboard.press("ArrowLeft")
        assert tab.locator("output").inner_text() == "Step 49 of 50, alpha = 0.98"
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@needs_chromium
def test_without_scripts_the_strip_is_shown_without_the_slider(report_page: Path) -> None:
    with browsing(java_script_enabled=False) as tab:
        tab.goto(report_page.as_uri())
        assert tab.locator("#interpolation-png img").is_visible()
        assert not tab.locator(".steps").is_visible()
        tab.locator("#curves-png button").click()
        assert is_enlarged(tab, "curves-png")


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_a_click_or_a_key_enlarges_an_image_and_another_or_escape_closes_it(report_page: Path, width: int) -> None:
    with browsing(viewport={"width": width, "height": 700}) as tab:
        tab.goto(report_page.as_uri())
        button = tab.locator("#interpolation-png button")
        before = tab.locator("#interpolation-png img").bounding_box()["width"]
        assert not is_enlarged(tab, "interpolation-png")
        for enlarge, back in (
            (button.click, lambda: tab.mouse.click(width / 2, 350)),
            (button.click, lambda: tab.keyboard.press("Escape")),
            (lambda: button.press("Enter"), lambda: tab.keyboard.press("Enter")),
        ):
            enlarge()
            assert is_enlarged(tab, "interpolation-png")
            shown = tab.locator("#interpolation-png img").bounding_box()["width"]
            assert shown >= max(before, html.embed_file(report_page.parent / "interpolation.png").width)
            back()
            assert not is_enlarged(tab, "interpolation-png")
            assert tab.locator("#interpolation-png img").bounding_box()["width"] == before


def is_enlarged(tab: Any, name: str) -> bool:
    """Whether the image fills the window."""
    box, size = tab.locator(f"#{name}").bounding_box(), tab.viewport_size
    return bool((box["x"], box["y"], box["width"], box["height"]) == (0, 0, size["width"], size["height"]))
