import sys
from pathlib import Path

import jobs
import numpy as np
import pytest
from PIL import Image

from catae.__main__ import main
from catae.data.image_store import ImageStore
from catae.inference import latent_map
from catae.report import figures
from catae.settings import Settings
from catae.system import files


def test_thumbnails_are_downscaled_and_never_enlarged(synthetic_images: ImageStore) -> None:
    positions = list(range(70, 0, -1))
    assert np.array_equal(latent_map.thumbnails(synthetic_images, positions, 64), synthetic_images.take(positions))
    small = latent_map.thumbnails(synthetic_images, positions, 16)
    assert small.shape == (70, 16, 16, 3)
    blocks = synthetic_images.take(positions).reshape(70, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(small - blocks).mean() < 6


def test_the_map_shows_images_pixel_for_pixel_without_overlap(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60, 20, 20, 3), np.uint8)
    figures.latent_map(random.normal(size=(60, 2)), ("one", "two"), pixels, tmp_path / "map.png", "a map")
    canvas = np.asarray(Image.open(tmp_path / "map.png").convert("RGB"))
    shown = [sum(np.array_equal(found, image) for found in _candidates(canvas, image)) for image in pixels]
    assert max(shown) == 1
    assert shown[0] == 1
    assert 30 < sum(shown) <= 60


def _candidates(canvas: np.ndarray, image: np.ndarray) -> list[np.ndarray]:
    """Return the parts of the canvas of the image's size that start with its first pixel."""
    height, width = image.shape[:2]
    corners = zip(*np.nonzero((canvas == image[0, 0]).all(-1)), strict=True)
    return [canvas[row : row + height, column : column + width] for row, column in corners]


def test_close_points_are_thinned_out_to_the_first() -> None:
    points = np.array([[0, 0], [1, 1], [50, 0], [50, 39], [50, 41]])
    assert figures._apart(points, 40, 10) == [0, 2, 4]
    assert figures._apart(points, 40, 2) == [0, 2]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a trained run."""
    folder = tmp_path_factory.mktemp("artifacts")
    small = {"source": "drawn:120", "image_size": 32, "latent_dim": 16, "width": 4, "max_epochs": 1}
    jobs.train(Settings(**small, test_fraction=0.4, output_dir=folder))
    return folder


@pytest.fixture
def output_dir(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(artifacts))
    return artifacts


def test_the_map_is_reproducible(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [main(["latents", "latest", "--out", name]) for name in ("one.png", "two.png")] == [0, 0]
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert capsys.readouterr().out == "one.png\ntwo.png\n"


@pytest.mark.slow
def test_umap_is_reproducible_and_differs_from_pca(output_dir: Path) -> None:
    pytest.importorskip("umap", reason="umap-learn is missing: pip install -e .[umap]")
    assert [main(["latents", "--map", "umap", "--out", name]) for name in ("one.png", "two.png")] == [0, 0]
    assert main(["latents", "--out", "pca.png"]) == 0
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes() != Path("pca.png").read_bytes()


def test_without_umap_one_line_names_the_extra(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    assert main(["latents", "--map", "umap", "--out", "map.png"]) == 2
    error = capsys.readouterr().err
    assert error == "catae: --map umap needs umap-learn: pip install 'catae[umap]', or use --map pca\n"
    assert not Path("map.png").exists()


def test_missing_images_are_a_user_error(output_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (source,) = (output_dir / "runs").glob("*")
    for name in ("model.safetensors", "split.json", "settings.json"):
        (copy / name).write_bytes((source / name).read_bytes())
    manifest = files.read_json(source / "run.json")
    files.write_json(copy / "run.json", manifest | {"data": manifest["data"] | {"store": str(tmp_path / "gone")}})
    assert main(["latents", str(copy)]) == 2
    assert "the images of run copy are gone from" in capsys.readouterr().err
