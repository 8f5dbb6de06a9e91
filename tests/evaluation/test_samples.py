from pathlib import Path

import jobs
import numpy as np
import pytest

from catae.data import loader, split, transforms
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.evaluation import samples
from catae.evaluation.samples import SampleScores
from catae.evaluation.sliced_wasserstein import sliced_wasserstein
from catae.latent import priors, space
from catae.latent.priors import Priors
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.run import Run
from catae.settings import Settings
from catae.system.rng import generator
from catae.training import loop

Trained = tuple[AutoEncoder, Priors, ImageStore, Split]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a few seconds."""
    return jobs.train(
        Settings(
            source="drawn:120", image_size=32, latent_dim=16, width=8, max_epochs=6, test_fraction=0.3,
            output_dir=tmp_path_factory.mktemp("artifacts"),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(run: Run) -> Trained:
    """The model, the priors, the images and the split of the run."""
    images = ImageStore(Path(run.read()["data"]["store"]))
    return weights.load(run.model), priors.load(run.priors), images, split.open_split(run.split, images.names)


@pytest.fixture(scope="module")
def scores(trained: Trained) -> SampleScores:
    return samples.score_samples(*trained, seed=0)


def test_train_images_are_nearest_to_equally_many_test_images(trained: Trained, scores: SampleScores) -> None:
    _, fitted, _, parts = trained
    assert scores.pictures == len(parts.test) == scores.nearest.pictures
    assert scores.nearest.train == len(parts.train)
    assert list(scores.distances) == list(fitted)
    assert scores.best == min(scores.distances, key=lambda name: scores.distances[name].mean)
    for other in (scores.restorations, *scores.distances.values()):
        assert 0 < scores.floor.mean < other.mean


def test_whitening_makes_normal_samples_as_good_as_a_fitted_gaussian(
    run: Run, trained: Trained, scores: SampleScores
) -> None:
    _, _, images, parts = trained
    assert scores.distances["randn"].mean == pytest.approx(scores.distances["gaussian"].mean, rel=1e-3)
    unwhitened = loop.load_best(run.checkpoints)
    fitted = priors.fit_priors(space.encode(unwhitened, loader.ordered_loader(images, parts.train)), seed=0)
    before = samples.score_samples(unwhitened, fitted, images, parts, seed=0)
    assert before.distances["randn"].mean != pytest.approx(before.distances["gaussian"].mean, rel=0.1)
    assert scores.distances["randn"].mean == pytest.approx(before.distances["gaussian"].mean, rel=0.1)


def test_the_seed_decides_the_scores(trained: Trained, scores: SampleScores) -> None:
    assert samples.score_samples(*trained, seed=0) == scores
    assert samples.score_samples(*trained, seed=1).distances != scores.distances


def test_distances_are_those_of_the_samples_that_generate_draws(trained: Trained, scores: SampleScores) -> None:
    model, fitted, images, parts = trained
    shown = samples.decode_samples(model, fitted, "gaussian", 5, 0)
    assert np.array_equal(samples.decode_samples(model, fitted, "gaussian", scores.pictures, 0)[:5], shown)
    in_order = images.take(parts.test)
    pixels = samples.decode_samples(model, fitted, "gaussian", scores.pictures, 0)
    # The patches of test images in another order are cut at other positions.
    again = sliced_wasserstein(pixels, in_order, generator(0, "patches"))
    assert again.mean == pytest.approx(scores.distances["gaussian"].mean, rel=0.1)


def test_nearest_images_equal_an_exhaustive_search(
    synthetic_images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "BATCH", 7)
    positions = [3, 50, 51, 52, 110, *range(60, 80)]
    queries, candidates = synthetic_images.take([0, 1, 2, 61]), synthetic_images.take(positions)
    nearest, distances = samples.find_nearest(queries, synthetic_images, positions)
    expected = np.sqrt(((queries[:, None] / 255 - candidates[None] / 255) ** 2).mean((2, 3, 4)))
    assert nearest.tolist() == [positions[index] for index in expected.argmin(1)]
    assert distances == pytest.approx(expected.min(1), abs=1e-5)
    assert (nearest[3], distances[3]) == (61, 0)


def test_nearest_distances_cover_samples_test_images_and_reconstructions(
    trained: Trained, scores: SampleScores
) -> None:
    model, fitted, images, parts = trained

    def mean(pixels: Pixels) -> float:
        return float(samples.find_nearest(pixels, images, parts.train)[1].mean())

    nearest, number = scores.nearest, scores.nearest.pictures
    assert nearest.test == pytest.approx(mean(images.take(parts.test)), abs=1e-6)
    assert nearest.samples == pytest.approx(
        mean(samples.decode_samples(model, fitted, scores.best, number, 0)), abs=1e-6
    )
    reconstructions = transforms.to_uint8(model(transforms.normalize(images.take(parts.test))).detach())
    assert nearest.restorations == pytest.approx(mean(reconstructions), abs=1e-4)
    assert nearest.restorations < nearest.test  # smooth images are nearer to every image
    reconstructions = transforms.to_uint8(model(transforms.normalize(images.take(parts.train))).detach())
    assert nearest.copies == pytest.approx(mean(reconstructions), rel=0.3)  # of some of them


def test_one_test_image_is_enough(trained: Trained) -> None:
    model, fitted, images, parts = trained
    one = samples.score_samples(model, fitted, images, Split(parts.train, parts.test[:1]), 0)
    assert one.pictures == one.nearest.pictures == 1
    assert np.isfinite(one.floor.mean)


def test_the_summary_states_the_distance_of_each_prior(scores: SampleScores) -> None:
    lines = samples.summarize(scores).splitlines()
    assert lines[0].endswith(f"from {scores.pictures} test images:")
    assert f"train images {scores.floor.mean:.1f}, reconstructions {scores.restorations.mean:.1f}" in lines[1]
    by_prior = ", ".join(f"{name} {distance.mean:.1f}" for name, distance in scores.distances.items())
    assert lines[2].endswith(f"samples: {by_prior}")
    assert max(map(len, lines)) <= 80
