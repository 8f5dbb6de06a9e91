import copy
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from PIL import Image

from catae.data import loader, split, transforms
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.evaluation import samples as generation
from catae.evaluation import sliced_wasserstein
from catae.evaluation.samples import Generation
from catae.latent import priors, space, whitening
from catae.latent.priors import Priors
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.settings import Settings
from catae.system.rng import generator

Trained = tuple[AutoEncoder, Priors, ImageStore, Split]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What a run of a few seconds has learned, and from what."""
    run = jobs.train(
        Settings(
            source="drawn:120", image_size=32, latent_dim=16, width=8, max_epochs=6, test_fraction=0.3,
            output_dir=tmp_path_factory.mktemp("artifacts"),
        )
    )  # fmt: skip
    images = ImageStore(Path(run.read()["data"]["store"]))
    return weights.load(run.model), priors.load(run.priors), images, split.open_split(run.split, images.names)


@pytest.fixture(scope="module")
def measured(trained: Trained) -> Generation:
    return generation.measure(*trained, seed=0)


def test_all_sets_are_as_large_as_the_test_set_and_real_pictures_are_nearest_to_it(
    trained: Trained, measured: Generation
) -> None:
    _, fitted, _, parts = trained
    assert measured.pictures == len(parts.test) == measured.nearest.pictures
    assert measured.nearest.train == len(parts.train)
    assert list(measured.distances) == list(fitted)
    assert measured.best == min(measured.distances, key=lambda name: measured.distances[name].mean)
    for other in (measured.restorations, *measured.distances.values()):
        assert 0 < measured.floor.mean < other.mean


def test_n_0_i_is_as_near_as_a_fitted_gaussian_once_codes_are_folded_and_not_before(
    trained: Trained, measured: Generation
) -> None:
    model, _, images, parts = trained
    assert measured.distances["randn"].mean == pytest.approx(measured.distances["gaussian"].mean, rel=1e-3)
    other = copy.deepcopy(model)
    with torch.no_grad():  # codes a third as wide: the same restorations, and noise lands far from them
        other.encoder.layers[-1].weight /= 3  # type: ignore[operator]
        other.encoder.layers[-1].bias /= 3  # type: ignore[operator]
        other.decoder.layers[0].weight *= 3  # type: ignore[operator]
    codes = space.encode(other, loader.ordered_loader(images, parts.train))
    fitted = priors.fit(codes, seed=0)
    before = generation.measure(other, fitted, images, parts, seed=0)
    assert before.distances["randn"].mean != pytest.approx(before.distances["gaussian"].mean, rel=0.1)
    fitted = priors.fit(whitening.fold(other, codes), seed=0)
    after = generation.measure(other, fitted, images, parts, seed=0)
    assert after.distances["randn"].mean == pytest.approx(before.distances["gaussian"].mean, rel=0.1)


def test_the_same_seed_measures_the_same_and_another_seed_other_samples(trained: Trained, measured: Generation) -> None:
    assert generation.measure(*trained, seed=0) == measured
    assert generation.measure(*trained, seed=1).distances != measured.distances


def test_a_distance_is_that_of_the_pictures_that_generate_draws(trained: Trained, measured: Generation) -> None:
    model, fitted, images, parts = trained
    shown = generation.samples(model, fitted, "gaussian", 5, 0)
    assert np.array_equal(generation.samples(model, fitted, "gaussian", measured.pictures, 0)[:5], shown)
    in_order = images.take(parts.test)
    samples = generation.samples(model, fitted, "gaussian", measured.pictures, 0)
    # In another order, the test pictures' patches are cut elsewhere.
    again = sliced_wasserstein.distance(samples, in_order, generator(0, "patches"))
    assert again.mean == pytest.approx(measured.distances["gaussian"].mean, rel=0.1)


def test_nearest_pictures_are_those_that_comparing_with_each_finds(
    drawn_set: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "AT_A_TIME", 7)
    positions = [3, 50, 51, 52, 110, *range(60, 80)]
    wanted, there = drawn_set.take([0, 1, 2, 61]), drawn_set.take(positions)
    found, apart = generation.nearest(wanted, drawn_set, positions)
    off = np.sqrt(((wanted[:, None] / 255 - there[None] / 255) ** 2).mean((2, 3, 4)))
    assert found.tolist() == [positions[which] for which in off.argmin(1)]
    assert apart == pytest.approx(off.min(1), abs=1e-5)
    assert (found[3], apart[3]) == (61, 0)


def test_how_near_train_pictures_are_is_told_of_samples_beside_real_and_restored_pictures(
    trained: Trained, measured: Generation
) -> None:
    model, fitted, images, parts = trained

    def mean(pixels: Pixels) -> float:
        return float(generation.nearest(pixels, images, parts.train)[1].mean())

    near, number = measured.nearest, measured.nearest.pictures
    assert near.test == pytest.approx(mean(images.take(parts.test)), abs=1e-6)
    assert near.samples == pytest.approx(mean(generation.samples(model, fitted, measured.best, number, 0)), abs=1e-6)
    restored = transforms.to_uint8(model(transforms.normalize(images.take(parts.test))).detach())
    assert near.restorations == pytest.approx(mean(restored), abs=1e-4)
    assert near.restorations < near.test  # smooth pictures are nearer to everything
    restored = transforms.to_uint8(model(transforms.normalize(images.take(parts.train))).detach())
    assert near.copies == pytest.approx(mean(restored), rel=0.3)  # of some of them


def test_samples_stand_over_the_train_pictures_nearest_to_them(trained: Trained, tmp_path: Path) -> None:
    model, fitted, images, parts = trained
    generation.draw_nearest(model, fitted, "mixture", images, parts, 0, tmp_path / "nearest.png")
    with Image.open(tmp_path / "nearest.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    sample = generation.samples(model, fitted, "mixture", 16, 0)[0]
    (position, *_), _ = generation.nearest(sample[None], images, parts.train)
    pair = np.vstack([sample, images.take([position])[0]]).repeat(2, 0).repeat(2, 1)
    rows = [row for row in range(len(drawn) - 64) if np.array_equal(drawn[row : row + 64, 16 : 16 + 64], pair[:64])]
    assert len(rows) == 1
    assert np.array_equal(drawn[rows[0] + 68 : rows[0] + 132, 16 : 16 + 64], pair[64:])


def test_a_single_test_picture_can_be_compared_with(trained: Trained) -> None:
    model, fitted, images, parts = trained
    one = generation.measure(model, fitted, images, Split(parts.train, parts.test[:1]), 0)
    assert one.pictures == one.nearest.pictures == 1
    assert np.isfinite(one.floor.mean)


def test_the_log_says_how_far_each_prior_is_and_from_how_many_pictures(measured: Generation) -> None:
    said = generation.summary(measured).splitlines()
    assert said[0].endswith(f"from {measured.pictures} test pictures:")
    assert f"train pictures {measured.floor.mean:.1f}, restorations {measured.restorations.mean:.1f}" in said[1]
    priors_told = ", ".join(f"{name} {distance.mean:.1f}" for name, distance in measured.distances.items())
    assert said[2].endswith(f"random pictures: {priors_told}")
    assert max(map(len, said)) <= 80
