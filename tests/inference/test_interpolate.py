"""Interpolations, grids between four images, and attributes, on a small real run."""

from functools import partial
from pathlib import Path

import jobs
import numpy as np
import pytest
from PIL import Image, ImageSequence

from catae import run
from catae.__main__ import main
from catae.data import transforms
from catae.data.decode import Pixels
from catae.inference import gallery, interpolate
from catae.latent import interpolation, space
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.run import Run
from catae.settings import Settings
from catae.system import files


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose model reconstructs something: it starts from principal components."""
    place = tmp_path_factory.mktemp("artifacts")
    return jobs.train(
        Settings(source="drawn:120", image_size=32, latent_dim=16, width=8, max_epochs=1, init="pca", output_dir=place)
    )


@pytest.fixture(autouse=True)
def _output_dir(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(trained.path.parent.parent))


@pytest.fixture
def held_out(trained: Run) -> list[str]:
    """Return the names of the test images."""
    return list(files.read_json(trained.split)["test"])


@pytest.fixture(scope="module")
def model(trained: Run) -> AutoEncoder:
    return weights.load(trained.model)


@pytest.fixture
def ends(trained: Run, held_out: list[str]) -> Pixels:
    """Return two test images whose reconstructions differ; otherwise no test of a path could fail."""
    pixels = gallery.load_images(trained, held_out[:2], 32)
    first, second = reconstruct(trained, pixels).astype(int)
    assert np.abs(first - second).mean() > 10
    return pixels


def images_in_figure(path: Path, columns: int, count: int) -> np.ndarray:
    """Return the images of 32x32 in a figure of `figures.grid` with scale 2: (count, 32, 32, 3)."""
    with Image.open(path) as figure:
        canvas = np.asarray(figure.convert("RGB"))
    rows = -(-count // columns)
    canvas = canvas[-16 - rows * 68 + 4 : -16, 16 : 16 + columns * 68 - 4]
    padded = np.pad(canvas, ((0, 4), (0, 4), (0, 0)))
    tiles = padded.reshape(rows, 68, columns, 68, 3).swapaxes(1, 2).reshape(-1, 68, 68, 3)
    return tiles[:count, :64:2, :64:2]


def reconstruct(trained: Run, pixels: np.ndarray) -> np.ndarray:
    model = weights.load(trained.model)
    return transforms.to_uint8(model(transforms.normalize(pixels)).detach())


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether pixels are equal, up to the rounding of a batch of another size."""
    return bool(np.abs(a.astype(int) - b).max() <= 1)


def interpolated(model: AutoEncoder, ends: Pixels, steps: int, way: str) -> Pixels:
    mix = partial(interpolation.between_two, steps=steps, path=interpolation.PATHS[way])
    return interpolation.interpolate(model, [transforms.normalize(ends)], mix, space.decode)


@pytest.mark.parametrize("way", list(interpolation.PATHS))
def test_an_interpolation_goes_from_one_reconstruction_to_the_other(way: str, model: AutoEncoder, ends: Pixels) -> None:
    images = interpolated(model, ends, 50, way)
    assert images.shape == (50, 32, 32, 3)
    assert close(images[[0, -1]], transforms.to_uint8(model(transforms.normalize(ends)).detach()))


def test_the_middle_of_a_linear_path_is_the_mean_of_the_latents(model: AutoEncoder, ends: Pixels) -> None:
    middle = sum(model.encoder(transforms.normalize(end[None])).detach() for end in ends) / 2
    assert close(interpolated(model, ends, 51, "linear")[25], space.decode(model, middle)[0])


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_suffix_decides_the_format_of_the_animation(kind: str, held_out: list[str]) -> None:
    assert main(["interpolate", *held_out[:2], "--out", f"path.{kind}"]) == 0
    with Image.open(f"path.{kind}") as image:
        assert image.format == {"gif": "GIF", "webp": "WEBP"}[kind]
        # Equal frames are merged into one that lasts longer.
        assert sum(frame.load() and frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 2000 + 96 * 80


def test_interpolate_draws_an_mp4(held_out: list[str]) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="ffmpeg is missing: pip install -e .[video]")
    assert main(["interpolate", *held_out[:2], "--out", "path.mp4"]) == 0
    assert Path("path.mp4").read_bytes()[4:12] == b"ftypisom"


@pytest.mark.parametrize(("rows", "columns"), [([], 8), (["--rows", "1"], 12), (["--rows", "4"], 3)])
def test_a_png_shows_all_steps_in_the_given_rows(
    rows: list[str], columns: int, trained: Run, held_out: list[str], ends: Pixels
) -> None:
    assert main(["interpolate", *held_out[:2], "--steps", "10", *rows, "--out", "path.png"]) == 0
    shown = images_in_figure(Path("path.png"), columns, 12)
    assert np.array_equal(shown[[0, -1]], ends)
    assert close(shown[[1, -2]], reconstruct(trained, ends))


def test_the_default_path_is_linear(held_out: list[str]) -> None:
    for name, way in (("a", []), ("b", ["--path", "linear"]), ("c", ["--path", "spherical"])):
        assert main(["interpolate", *held_out[:2], "--steps", "5", *way, "--out", f"{name}.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes() != Path("c.png").read_bytes()


@pytest.mark.parametrize(("steps", "side"), [([], 8), (["--steps", "3"], 3)])
@pytest.mark.parametrize("way", list(interpolation.PATHS))
def test_the_corners_of_a_grid_are_reconstructions(
    way: str, steps: list[str], side: int, trained: Run, held_out: list[str]
) -> None:
    assert main(["interpolate", *held_out[:4], *steps, "--path", way, "--out", "grid.png"]) == 0
    shown = images_in_figure(Path("grid.png"), side, side**2).reshape(side, side, 32, 32, 3)
    corners = shown[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert close(corners, reconstruct(trained, gallery.load_images(trained, held_out[:4], 32)))


def test_an_attribute_is_added_in_steps(trained: Run, held_out: list[str]) -> None:
    name, *others = held_out[:5]
    groups = ["--with", *others[:3], "--without", *others[3:]]
    assert main(["attribute", name, *groups, "--out", "x.png"]) == 0
    model = weights.load(trained.model)

    def latent(names: list[str]) -> space.Tensor:
        return (
            model.encoder(transforms.normalize(gallery.load_images(trained, names, 32))).detach().mean(0, keepdim=True)
        )

    shown = images_in_figure(Path("x.png"), 10, 10)
    assert np.array_equal(shown[0], gallery.load_images(trained, [name], 32)[0])
    for place, step in enumerate((-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2), start=1):
        expected = space.decode(model, latent([name]) + step * (latent(others[:3]) - latent(others[3:])))
        assert close(shown[place], expected[0])


def test_the_groups_of_an_attribute_can_be_paths(trained: Run, held_out: list[str]) -> None:
    Image.fromarray(gallery.load_images(trained, held_out[1:2], 32)[0]).save("tom.png")
    for out, name in (("by_name.png", held_out[1]), ("by_path.png", "tom.png")):
        assert main(["attribute", held_out[0], "--with", name, "--without", held_out[2], "--out", out]) == 0
    assert Path("by_name.png").read_bytes() == Path("by_path.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["interpolate", "A"], "interpolate needs two images, or four for a grid: 1 are given"),
        (["interpolate", "A", "B", "C"], "interpolate needs two images, or four for a grid: 3 are given"),
        (
            ["interpolate", "A", "B", "C", "D", "--steps", "33"],
            "--steps is 33: the grid between four images has at most 32",
        ),
        (
            ["interpolate", "A", "B", "C", "D", "--out", "x.gif"],
            "--out is x.gif: the grid between four images must be a .png",
        ),
        (["interpolate", "A", "B", "--rows", "1", "--out", "x.gif"], "--rows is 1: only a .png has rows"),
        (["interpolate", "A", "B", "--rows", "0", "--out", "x.png"], "--rows is 0: it must be from 1 to 52"),
        (
            ["interpolate", "A", "B", "--rows", "1", "--steps", "1000", "--out", "x.png"],
            "--rows is 1: 1002 images per row are too wide for a PNG; at most 955 fit",
        ),
        (["interpolate", "A", "B", "C", "nope.png"], "'nope.png' is not an image of this run"),
        (["attribute", "A", "--with", "B", "--without", "nope.png"], "'nope.png' is not an image of this run"),
        (["attribute", "A", "--with", "B", "C", "--without", "C", "B"], "name the same images"),
        (["attribute", "nope.png", "--with", "A", "--without", "B"], "'nope.png' is not an image of this run"),
        (["attribute", "A", "--with", "B", "--without", "C", "--run", "nope"], "no such run"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, held_out: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = dict(zip("ABCD", held_out, strict=False))
    assert main([named.get(argument, argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


@pytest.mark.parametrize("arguments", [["interpolate", "a", "b", "--out", "x.avi"], ["attribute", "a"]])
def test_invalid_arguments_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


def test_without_names_the_seed_chooses_two_test_images(trained: Run, held_out: list[str]) -> None:
    names = interpolate.draw_run_interpolation(trained, [], 3, 0, Path("path.png"))
    assert names == interpolate.draw_run_interpolation(
        run.find_run("latest", trained.path.parent.parent), [], 3, 0, Path("path.png")
    )
    assert set(names) < set(held_out)
