import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

import catae
from catae import settings
from catae.data import decode
from catae.data.transforms import normalize, to_uint8
from catae.errors import UserError
from catae.inference import gallery
from catae.inference.pretrained import Pretrained
from catae.latent import priors, space
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.pipeline import lifecycle
from catae.run import Run
from catae.settings import Settings
from catae.system import rng

SIZE, LATENT = 32, 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a model and priors, as training leaves them."""
    new = lifecycle.create_run(Settings(output_dir=tmp_path_factory.mktemp("artifacts")), settings.origins())
    weights.save(AutoEncoder(SIZE, LATENT, 4), new.model)
    latents = torch.randn(40, LATENT, 1, 1, generator=rng.generator(0, "codes"))
    priors.save(priors.fit_priors(latents, 0), new.priors)
    return new


def test_the_error_for_an_old_file_of_priors_gives_the_new_name(source: Run, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(source.model.read_bytes())
    (tmp_path / "prior.safetensors").write_bytes(source.priors.read_bytes())
    with pytest.raises(UserError, match=r"prior\.safetensors is now called priors\.safetensors"):
        catae.load(tmp_path)


@pytest.fixture(scope="module")
def model(source: Run) -> Pretrained:
    return catae.load(source.path)


@pytest.fixture(scope="module")
def pixels() -> decode.Pixels:
    """Three images of noise, of the model's size."""
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def same(a: list[Image.Image], b: list[Image.Image]) -> bool:
    return [image.tobytes() for image in a] == [image.tobytes() for image in b]


def test_a_model_is_loaded_by_run_folder_file_or_name(source: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(source.path.parent.parent))
    Path("alone.safetensors").write_bytes(source.model.read_bytes())
    loaded = [catae.load(name) for name in ("latest", source.id, source.path, str(source.model), "alone.safetensors")]
    loaded.append(catae.load())
    assert [len(one.priors) for one in loaded] == [4, 4, 4, 4, 1, 4]
    drawn = [one.sample(2, seed=1) for one in loaded]
    assert all(same(one, drawn[0]) for one in drawn)
    assert repr(loaded[0]) == "<catae model: 32x32 images, 8 latent dimensions>"


def test_loading_something_else_is_a_user_error(source: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(source.path.parent.parent))
    with pytest.raises(UserError, match="the model to load is 'nowhere': no such run in"):
        catae.load("nowhere")
    (tmp_path / "words.safetensors").write_text("words")
    with pytest.raises(UserError, match="does not hold a model of catae"):
        catae.load(tmp_path / "words.safetensors")


def test_the_output_has_the_type_of_the_input(model: Pretrained, pixels: decode.Pixels) -> None:
    tensor, images = normalize(pixels), [Image.fromarray(image) for image in pixels]
    with torch.no_grad():
        latents, reconstructions = model.model.encoder(tensor), model.model(tensor)
    assert torch.equal(model.encode(tensor), latents)
    assert np.array_equal(model.encode(pixels), latents.numpy())
    assert np.array_equal(model.encode(images), latents.numpy())
    assert torch.equal(model.reconstruct(tensor), reconstructions)
    assert np.array_equal(model.reconstruct(pixels), to_uint8(reconstructions))
    assert same(model.reconstruct(images), [Image.fromarray(image) for image in to_uint8(reconstructions)])
    assert torch.equal(model.decode(latents), model.decode(latents.flatten(1)))
    assert np.array_equal(model.decode(latents.numpy()), to_uint8(reconstructions))
    assert not latents.requires_grad


def test_one_image_gives_one_reconstruction(model: Pretrained, pixels: decode.Pixels) -> None:
    several = model.reconstruct(pixels[:1])
    assert np.array_equal(model.reconstruct(pixels[0]), several[0])
    assert model.reconstruct(Image.fromarray(pixels[0])).tobytes() == several[0].tobytes()
    assert model.reconstruct(normalize(pixels[:1])[0]).shape == (3, SIZE, SIZE)
    assert model.encode(Image.fromarray(pixels[0])).shape == (1, LATENT, 1, 1)


def test_images_of_any_size_and_mode_are_decoded_like_a_source_and_not_changed(
    model: Pretrained, tmp_path: Path
) -> None:
    wide = Image.effect_mandelbrot((90, 50), (-2, -1, 1, 1), 40).convert("RGB")
    wide.putpixel((3, 3), (255, 0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6
    wide.save(tmp_path / "turned.png", exif=turned)
    with Image.open(tmp_path / "turned.png") as image:
        latent = model.encode(image)
        assert image.size == (90, 50)
        upright = ImageOps.exif_transpose(image)
    assert upright.size == (50, 90)
    read = decode.decode((tmp_path / "turned.png").read_bytes(), SIZE)
    assert np.array_equal(latent, model.encode(read))
    assert not np.array_equal(latent, model.encode(wide))
    assert model.encode([wide, wide.convert("P"), wide.convert("L"), wide.convert("RGBA")]).shape[0] == 4
    assert np.array_equal(model.encode(np.asarray(wide)), model.encode(wide))


def test_a_path_is_read_although_its_metadata_is_damaged(
    model: Pretrained, pixels: decode.Pixels, tmp_path: Path
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("cat", "purr")
    path = tmp_path / "cat.png"
    Image.fromarray(pixels[0]).save(path, pnginfo=info)
    path.write_bytes(path.read_bytes().replace(b"purr", b"meow"))  # the checksum is wrong
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)
    expected = Image.fromarray(model.reconstruct(pixels[0]))
    assert same([model.reconstruct(path), *model.reconstruct([path])], [expected, expected])
    assert np.array_equal(gallery.load_images(Run(tmp_path), [str(path)], SIZE), pixels[:1])
    with pytest.raises(UserError, match=r"cannot read .*none\.png: No such file"):
        model.encode(tmp_path / "none.png")


def test_a_batch_gives_what_each_image_gives_alone(model: Pretrained) -> None:
    many = torch.rand(150, 3, SIZE, SIZE) * 2 - 1
    latents = model.encode(many)
    assert latents.shape == (150, LATENT, 1, 1)
    torch.testing.assert_close(latents[140:141], model.encode(many[140]), atol=1e-5, rtol=1e-4)


def test_samples_depend_on_seed_and_prior_only(model: Pretrained, source: Run) -> None:
    assert same(model.sample(5, seed=3)[:2], model.sample(2, seed=3))
    expected = space.decode(weights.load(source.model), model.priors["randn"].sample(5, 3))
    assert same(model.sample(5, seed=3), [Image.fromarray(image) for image in expected])
    drawn = [model.sample(1, 3, prior) for prior in model.priors]
    assert len({one[0].tobytes() for one in drawn}) == 4
    assert drawn[0][0].size == (SIZE, SIZE)


def test_an_interpolation_goes_from_one_reconstruction_to_the_other(model: Pretrained, pixels: decode.Pixels) -> None:
    a, b = pixels[0], pixels[1]
    path = model.interpolate(a, b, 5)
    assert path.shape == (5, SIZE, SIZE, 3)
    ends = model.reconstruct(pixels[:2]).astype(int)
    assert np.abs(path[[0, -1]] - ends).max() <= 1  # a batch of another size may round otherwise
    latents = model.encode(pixels[:2])
    assert np.abs(path[2].astype(int) - model.decode(latents.mean(0, keepdims=True))[0]).max() <= 1
    assert same(
        model.interpolate(Image.fromarray(a), Image.fromarray(b), 5), [Image.fromarray(image) for image in path]
    )
    tensors = model.interpolate(normalize(pixels[:1]), normalize(pixels[1:2])[0], 5)
    assert np.array_equal(to_uint8(tensors), path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("cat.jpg", "images must be PIL images, paths, an array or a tensor, at least one; got 'cat.jpg'"),
        ([], r"at least one; got \[\]"),
        ([np.zeros((SIZE, SIZE, 3), np.uint8)], "images must be PIL images, paths, an array or a tensor"),
        (np.zeros((2, SIZE, SIZE, 3)), r"uint8 \(n, height, width, 3\); got float64 \(2, 32, 32, 3\)"),
        (np.zeros((SIZE, SIZE), np.uint8), r"got uint8 \(32, 32\)"),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), r"got uint8 \(0, 32, 32, 3\)"),
        (torch.zeros(2, 3, 64, 64), r"float \(n, 3, 32, 32\) in \[-1, 1\]; got float32 \(2, 3, 64, 64\)"),
        (torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8), r"got uint8 \(2, 3, 32, 32\)"),
        (torch.zeros(0, 3, SIZE, SIZE), r"got float32 \(0, 3, 32, 32\)"),
    ],
)
def test_other_inputs_are_type_errors(model: Pretrained, images: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.encode(images)


def test_invalid_values_are_user_errors(model: Pretrained, pixels: decode.Pixels) -> None:
    with pytest.raises(UserError, match=r"in \[-1, 1\]; this one is in \[0, 255\]"):
        model.encode(torch.arange(256.0).repeat(12).view(1, 3, SIZE, SIZE))
    with pytest.raises(UserError, match="in \\[nan, nan\\]"):
        model.encode(torch.full((1, 3, SIZE, SIZE), torch.nan))
    with pytest.raises(UserError, match="floating-point pixels without a known range"):
        model.encode(Image.new("F", (9, 9)))
    for latents in (torch.zeros(2, 7), np.zeros((2, LATENT), int), torch.zeros(0, LATENT), [1.0], torch.zeros(LATENT)):
        with pytest.raises(TypeError, match=r"latents must be float \(n, 8, 1, 1\); got"):
            model.decode(latents)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="interpolate takes one image and another, not 3 and 1"):
        model.interpolate(pixels, pixels[0])
    with pytest.raises(UserError, match="cannot interpolate in 1 steps"):
        model.interpolate(pixels[0], pixels[1], 1)
    with pytest.raises(UserError, match="cannot draw 0 samples"):
        model.sample(0)
    alone = Pretrained(model.model, {"randn": model.priors["randn"]})
    with pytest.raises(UserError, match="this model has no prior 'mixture', only randn; load the model's run"):
        alone.sample(1, prior="mixture")


def test_importing_catae_loads_no_pytorch() -> None:
    code = "import sys, catae; assert callable(catae.load); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0
