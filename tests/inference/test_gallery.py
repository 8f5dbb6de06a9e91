import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catae.data import loader
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.errors import UserError
from catae.evaluation import samples
from catae.inference import gallery
from catae.latent import priors, space
from catae.latent.priors import Priors
from catae.model.autoencoder import AutoEncoder
from catae.run import Run


@pytest.fixture(scope="module")
def model() -> AutoEncoder:
    return AutoEncoder(32, 16, 4).eval()


@pytest.fixture(scope="module")
def fitted(model: AutoEncoder, synthetic_images: ImageStore) -> Priors:
    return priors.fit_priors(space.encode(model, loader.ordered_loader(synthetic_images, range(120))), 0)


def test_samples_depend_on_seed_and_prior_only(model: AutoEncoder, fitted: Priors, tmp_path: Path) -> None:
    def drawn(prior: priors.Name, seed: int) -> bytes:
        gallery.draw_samples(model, fitted, prior, 5, seed, tmp_path / "new.png")
        return (tmp_path / "new.png").read_bytes()

    assert all(drawn(prior, 3) == drawn(prior, 3) for prior in fitted)
    assert len({drawn(prior, seed) for prior in fitted for seed in (3, 4)}) == 8


def test_a_pair_is_chosen_by_seed_or_by_name(synthetic_images: ImageStore) -> None:
    test = [4, 9, 30, 77]
    names = synthetic_images.names
    by_seed = gallery.choose_pair(names, test, "", 0)
    assert by_seed == gallery.choose_pair(names, test, "", 0)
    assert set(by_seed) < set(test)
    assert len(set(by_seed)) == 2
    assert gallery.choose_pair(names, test, f"{names[30]}, {names[4]}", 0) == [30, 4]
    with pytest.raises(UserError, match="is a train image; name one of the 4 test images"):
        gallery.choose_pair(names, test, f"{names[30]},{names[5]}", 0)
    with pytest.raises(UserError, match=r"'cat\.png' is not an image of this run; .* like drawn/"):
        gallery.choose_pair(names, test, f"cat.png,{names[30]}", 0)


def test_an_image_is_found_with_and_without_a_leading_dot() -> None:
    names = ["a/cat.png", "./tar.png", "other.png"]
    for name, position in (("./a/cat.png", 0), ("a//cat.png", 0), ("tar.png", 1), ("./tar.png", 1)):
        assert gallery.find_test_image(name, names, [0, 1]) == position
    with pytest.raises(UserError, match=r"'other\.png' is a train image"):
        gallery.find_test_image("./other.png", names, [0, 1])


def test_the_error_for_a_file_that_is_not_an_image_names_its_path(tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("words")
    with pytest.raises(UserError, match=r"words\.jpg: not an image in a known format"):
        gallery.load_images(Run(tmp_path), [str(tmp_path / "words.jpg")], 32)


def test_a_users_file_is_decoded_like_the_sources_images(synthetic_images: ImageStore, tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(synthetic_images.take([7])[0]).save(data, "PNG")
    (tmp_path / "tom.png").write_bytes(data.getvalue())
    assert np.array_equal(
        gallery.load_images(Run(tmp_path), [str(tmp_path / "tom.png")], 32)[0], synthetic_images.take([7])[0]
    )


def test_samples_are_decoded_pixel_for_pixel(model: AutoEncoder, fitted: Priors, tmp_path: Path) -> None:
    gallery.draw_samples(model, fitted, "randn", 1, 3, tmp_path / "one.png")
    expected = space.decode(model, fitted["randn"].sample(1, 3))[0].repeat(2, 0).repeat(2, 1)
    with Image.open(tmp_path / "one.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB"))[-16 - 64 : -16, 16 : 16 + 64], expected)


def test_samples_are_drawn_above_their_nearest_train_images(
    model: AutoEncoder, fitted: Priors, synthetic_images: ImageStore, tmp_path: Path
) -> None:
    parts = Split(train=tuple(range(100)), test=tuple(range(100, 120)))
    gallery.draw_nearest(model, fitted, "mixture", synthetic_images, parts, 0, tmp_path / "nearest.png")
    with Image.open(tmp_path / "nearest.png") as figure:
        canvas = np.asarray(figure.convert("RGB"))
    sample = samples.decode_samples(model, fitted, "mixture", 16, 0)[0]
    (position, *_), _ = samples.find_nearest(sample[None], synthetic_images, parts.train)
    pair = np.vstack([sample, synthetic_images.take([position])[0]]).repeat(2, 0).repeat(2, 1)
    rows = [row for row in range(len(canvas) - 64) if np.array_equal(canvas[row : row + 64, 16 : 16 + 64], pair[:64])]
    assert len(rows) == 1
    assert np.array_equal(canvas[rows[0] + 68 : rows[0] + 132, 16 : 16 + 64], pair[64:])
