"""Use a trained model from Python: `catae.load("latest")`, or the path of a file.

The type of the input decides the type of the output:

- Tensors give tensors. Images are float32 (n, 3, size, size) in [-1, 1].
- Arrays give arrays. Images are uint8 (n, height, width, 3), RGB. Images of another size are cropped and resized, as
  `catae reconstruct` does; the output has the model's size.
- A PIL image or the `Path` of a file, or a list of them, of any mode and size, gives PIL images in RGB, size x size. A
  path reads whatever `catae inspect` reads; `Image.open` refuses some files with damaged metadata.

Latents are float32 (n, latent_dim, 1, 1): tensors where the input is a tensor, arrays otherwise.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from catae import run, settings
from catae.data import decode
from catae.data.decode import Pixels
from catae.data.loader import EVALUATION_BATCH
from catae.data.transforms import normalize, to_uint8
from catae.errors import DecodeError, UserError
from catae.latent import interpolation, priors, space
from catae.latent.priors import Normal, Priors
from catae.model import weights
from catae.model.autoencoder import AutoEncoder

Latents = npt.NDArray[np.float32]
Images = TypeVar("Images", Image.Image, list[Image.Image], Pixels, Tensor)
File = Image.Image | Path

MODEL, PRIORS = "model.safetensors", "priors.safetensors"  # as in a run's folder
TOLERANCE = 1e-3  # how far beyond [-1, 1] a tensor may be: allows rounding errors, rejects pixels of 0 to 255


def load(name: str | Path) -> "Pretrained":
    """Load the trained model called `name`, on the CPU.

    Args:
        name: 'latest', the id of a run in CATAE_OUTPUT_DIR, the folder of a run or of an export, or a safetensors file.

    Raises:
        UserError: there is no such model, or the file holds something else.
    """
    file = _model_file(name)
    model = weights.load(file)
    priors_file = file.with_name(PRIORS)
    if priors_file.exists() or file.with_name(priors.OLD_NAME).exists():
        return Pretrained(model, priors.load(priors_file))
    return Pretrained(model, {"randn": Normal(model.latent_dim)})


class Pretrained:
    """A trained autoencoder with the priors that samples are drawn from. The module's docstring lists image types.

    Attributes:
        model: the PyTorch module, in evaluation mode.
        priors: by name. Every model has 'randn', which is N(0, I); a run has others.
        size: height and width of its images, in pixels.
        latent_dim: dimensions of a latent.
    """

    def __init__(self, model: AutoEncoder, fitted: Priors) -> None:
        self.model, self.priors = model, fitted
        self.size, self.latent_dim = model.image_size, model.latent_dim

    def __repr__(self) -> str:
        return f"<catae model: {self.size}x{self.size} images, {self.latent_dim} latent dimensions>"

    @overload
    def encode(self, images: Tensor) -> Tensor: ...
    @overload
    def encode(self, images: File | Sequence[File] | Pixels) -> Latents: ...
    def encode(self, images: Any) -> Any:
        """Return the latents of images: float32 (n, latent_dim, 1, 1).

        The latents of the train images have mean 0 and covariance I.

        Args:
            images: n images of a type that the module lists; a single image is a batch of one.

        Raises:
            TypeError: the type or the shape is not supported.
            UserError: an image cannot be decoded.
        """
        latents = self._encode(self._batch(images))
        return latents if isinstance(images, Tensor) else latents.numpy()

    @overload
    def decode(self, latents: Tensor) -> Tensor: ...
    @overload
    def decode(self, latents: Latents) -> Pixels: ...
    def decode(self, latents: Any) -> Any:
        """Return the images of latents.

        A tensor gives float32 (n, 3, size, size) in [-1, 1], an array gives uint8 (n, size, size, 3).

        Args:
            latents: float (n, latent_dim, 1, 1), or (n, latent_dim).

        Raises:
            TypeError: the type or the shape is not supported.
        """
        return _like(latents, space.decode_tensor(self.model, self._latents(latents)))

    @overload
    def reconstruct(self, images: Path) -> Image.Image: ...
    @overload
    def reconstruct(self, images: list[Path]) -> list[Image.Image]: ...
    @overload
    def reconstruct(self, images: Images) -> Images: ...
    def reconstruct(self, images: Any) -> Any:
        """Return the reconstructions of images, in the type of the input; PIL images for paths.

        Args:
            images: of a type that the module lists; a single image gives a single reconstruction.

        Raises:
            TypeError: the type or the shape is not supported.
            UserError: an image cannot be decoded.
        """
        reconstructions = _like(images, space.decode_tensor(self.model, self._encode(self._batch(images))))
        return reconstructions[0] if _is_single(images) else reconstructions

    def sample(self, count: int = 1, seed: int = 0, prior: priors.Name = "randn") -> list[Image.Image]:
        """Return images of random latents. The first images of a seed are the same for every count.

        Args:
            count: how many, at least 1.
            seed: any integer.
            prior: what latents are drawn from: 'randn', N(0, I), or a prior that the run fitted to the latents of its
                train images: 'gaussian', 'mixture' or 'neighbours'.

        Returns:
            PIL images, size x size, RGB.

        Raises:
            UserError: the model has no such prior, or the count is less than 1.
        """
        if prior not in self.priors:
            raise UserError(f"this model has no prior {prior!r}, only {', '.join(self.priors)}; load the model's run")
        if count < 1:
            raise UserError(f"cannot draw {count} samples; the count must be at least 1")
        return _pil(space.decode_tensor(self.model, self.priors[prior].sample(count, seed)))

    @overload
    def interpolate(self, a: File, b: File, steps: int = 8) -> list[Image.Image]: ...
    @overload
    def interpolate(self, a: Pixels, b: Pixels, steps: int = 8) -> Pixels: ...
    @overload
    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor: ...
    def interpolate(self, a: Any, b: Any, steps: int = 8) -> Any:
        """Return a linear interpolation from image `a` to image `b` in latent space, in the type of `a`.

        Args:
            a: one image, of a type that the module lists.
            b: another.
            steps: number of images, with the reconstructions of `a` and `b` at the ends; at least 2.

        Raises:
            TypeError: the type or the shape is not supported, or there is more than one image.
            UserError: an image cannot be decoded, or there are too few steps.
        """
        if steps < 2:
            raise UserError(f"cannot interpolate in {steps} steps; the number of steps must be at least 2")
        start, end = self._batch(a), self._batch(b)
        if (len(start), len(end)) != (1, 1):
            raise TypeError(f"interpolate takes one image and another, not {len(start)} and {len(end)}")
        mix = partial(interpolation.between_two, steps=steps)
        return _like(a, interpolation.interpolate(self.model, [start, end], mix, space.decode_tensor))

    def _encode(self, batch: Tensor) -> Tensor:
        return space.encode(self.model, torch.split(batch, EVALUATION_BATCH))

    def _batch(self, images: Any) -> Tensor:
        """Return images as the model takes them: float32 (n, 3, size, size) in [-1, 1]."""
        if isinstance(images, Tensor):
            return self._tensor_batch(images)
        if isinstance(images, np.ndarray):
            images = _from_array(images)
        elif isinstance(images, File):
            images = [images]
        if not (isinstance(images, Sequence) and images and all(isinstance(image, File) for image in images)):
            raise TypeError(f"images must be PIL images, paths, an array or a tensor, at least one; got {images!r:.80}")
        return normalize(np.stack([_to_pixels(image, self.size) for image in images]))

    def _tensor_batch(self, images: Tensor) -> Tensor:
        batch = images[None] if images.ndim == 3 else images
        if batch.shape[1:] != (3, self.size, self.size) or not len(batch) or not batch.is_floating_point():
            raise TypeError(
                f"a tensor of images must be float (n, 3, {self.size}, {self.size}) in [-1, 1]; got {_kind(images)}"
            )
        if not bool((batch.abs() <= 1 + TOLERANCE).all()):
            raise UserError(f"a tensor of images must be in [-1, 1]; this one is in [{batch.min():g}, {batch.max():g}]")
        return batch.float()

    def _latents(self, latents: Any) -> Tensor:
        given = torch.from_numpy(latents) if isinstance(latents, np.ndarray) and latents.dtype.kind == "f" else latents
        shapes = ((self.latent_dim,), (self.latent_dim, 1, 1))
        if not (
            isinstance(given, Tensor) and given.is_floating_point() and given.shape[1:] in shapes and len(given) > 0
        ):
            raise TypeError(f"latents must be float (n, {self.latent_dim}, 1, 1); got {_kind(latents)}")
        return given.float().reshape(len(given), self.latent_dim, 1, 1)


def _model_file(name: str | Path) -> Path:
    """Return the safetensors file of the model called `name`."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    found = run.find_run(str(name), settings.load().output_dir, "the model to load")
    if not found.model.exists():
        raise UserError(f"run {found.id} is {found.state()} and has no model yet; load another")
    return found.model


def read_image(path: Path, size: int) -> Pixels:
    """Decode an image file to uint8 (size, size, 3), RGB.

    Raises:
        UserError: there is no such file, or it yields no image.
    """
    try:
        return decode.decode(path.read_bytes(), size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise UserError(f"{path}: {error}") from error


def _to_pixels(image: File, size: int) -> Pixels:
    if isinstance(image, Path):
        return read_image(image, size)
    try:
        return decode.to_pixels(image, size)
    except DecodeError as error:
        raise UserError(f"cannot use an image: {error}") from error


def _from_array(pixels: npt.NDArray[Any]) -> list[Image.Image]:
    """Return the images in uint8 (n, height, width, 3), or the one in (height, width, 3)."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3 or not pixels.size:
        raise TypeError(f"an array of images must be uint8 (n, height, width, 3); got {_kind(pixels)}")
    return [Image.fromarray(image) for image in (pixels if pixels.ndim == 4 else pixels[None])]


def _like(given: Any, batch: Tensor) -> Any:
    """Return images (n, 3, size, size) in [-1, 1] in the type of `given`: tensor, array, or list of PIL images."""
    if isinstance(given, Tensor):
        return batch
    return to_uint8(batch) if isinstance(given, np.ndarray) else _pil(batch)


def _pil(batch: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image) for image in to_uint8(batch)]


def _is_single(images: Any) -> bool:
    return isinstance(images, File) or getattr(images, "ndim", 4) == 3


def _kind(value: Any) -> str:
    """Describe a value: its data type and shape, or its class."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {(*value.shape,)}"
    return type(value).__name__
