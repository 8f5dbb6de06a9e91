"""A trained model to use from Python: `catae.load("latest")`, or a file, and pictures of any kind.

What goes in decides what comes out:

- Tensors give tensors: pictures are float32 (n, 3, size, size) in [-1, 1].
- Arrays give arrays: pictures are uint8 (n, height, width, 3), RGB. Another size is cropped and resized, as for
  `catae reconstruct`; what comes out has the model's.
- A PIL picture, or a list of them, of any mode and size, gives PIL pictures of RGB, size x size.

Codes are float32 (n, latent_dim, 1, 1): arrays, but tensors where tensors went in.
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

Codes = npt.NDArray[np.float32]
Kind = TypeVar("Kind", Image.Image, list[Image.Image], Pixels, Tensor)

MODEL, PRIORS = "model.safetensors", "priors.safetensors"  # as in a run's folder
OUTSIDE = 1e-3  # how far beyond [-1, 1] a tensor may be: what arithmetic leaves, and not pixels of 0 to 255


def load(name: str | Path) -> "Pretrained":
    """The trained model called `name`, on the CPU.

    Args:
        name: 'latest', the id of a run in CATAE_OUTPUT_DIR, the folder of a run or of an export, or a file of
            safetensors.

    Raises:
        UserError: there is no such model, or the file holds something else.
    """
    file = _file(name)
    model = weights.load(file)
    beside = file.with_name(PRIORS)
    return Pretrained(model, priors.load(beside) if beside.exists() else {"randn": Normal(model.latent_dim)})


class Pretrained:
    """A trained autoencoder, with what its random codes are drawn from. The module says what pictures may be.

    Attributes:
        model: the PyTorch module, in evaluation mode.
        priors: by name; N(0, I) is 'randn', and a run has others.
        size: height and width of its pictures, in pixels.
        latent_dim: numbers of a code.
    """

    def __init__(self, model: AutoEncoder, fitted: Priors) -> None:
        self.model, self.priors = model, fitted
        self.size, self.latent_dim = model.image_size, model.latent_dim

    def __repr__(self) -> str:
        return f"<catae model: {self.size}x{self.size} pictures, codes of {self.latent_dim}>"

    @overload
    def encode(self, pictures: Tensor) -> Tensor: ...
    @overload
    def encode(self, pictures: Image.Image | Sequence[Image.Image] | Pixels) -> Codes: ...
    def encode(self, pictures: Any) -> Any:
        """The codes of pictures: float32 (n, latent_dim, 1, 1); those of train pictures have mean 0 and covariance I.

        Args:
            pictures: n of them, as the module says; a single one is a batch of one.

        Raises:
            TypeError: they are of no kind or shape that is known.
            UserError: a picture can't be decoded.
        """
        codes = self._encode(self._batch(pictures))
        return codes if isinstance(pictures, Tensor) else codes.numpy()

    @overload
    def decode(self, codes: Tensor) -> Tensor: ...
    @overload
    def decode(self, codes: Codes) -> Pixels: ...
    def decode(self, codes: Any) -> Any:
        """The pictures of codes: float32 (n, 3, size, size) of a tensor, uint8 (n, size, size, 3) of an array.

        Args:
            codes: float (n, latent_dim, 1, 1), or (n, latent_dim).

        Raises:
            TypeError: they are something else.
        """
        return _like(codes, space.decode_tensor(self.model, self._codes(codes)))

    def reconstruct(self, pictures: Kind) -> Kind:
        """Pictures, as they come back from their codes: of the kind that went in, and as many.

        Args:
            pictures: as the module says; a single one gives a single one.

        Raises:
            TypeError: they are of no kind or shape that is known.
            UserError: a picture can't be decoded.
        """
        restored = _like(pictures, space.decode_tensor(self.model, self._encode(self._batch(pictures))))
        single: Kind = restored[0] if _is_single(pictures) else restored
        return single

    def sample(self, count: int = 1, seed: int = 0, prior: priors.Name = "randn") -> list[Image.Image]:
        """New pictures of random codes: the same for the same seed, and the first of them whatever the count.

        Args:
            count: how many, at least 1.
            seed: any whole number.
            prior: what codes are drawn from: 'randn', N(0, I), or what a run has fitted to the codes of its train
                pictures: 'gaussian', 'mixture' or 'neighbours'.

        Returns:
            PIL pictures of size x size, RGB.

        Raises:
            UserError: the model has no such prior, or there is nothing to draw.
        """
        if prior not in self.priors:
            raise UserError(f"{prior!r} is no prior of this model, which has {', '.join(self.priors)}; load its run")
        if count < 1:
            raise UserError(f"{count} pictures can't be drawn: ask for 1 or more")
        return _pil(space.decode_tensor(self.model, self.priors[prior].sample(count, seed)))

    @overload
    def interpolate(self, a: Image.Image, b: Image.Image, steps: int = 8) -> list[Image.Image]: ...
    @overload
    def interpolate(self, a: Pixels, b: Pixels, steps: int = 8) -> Pixels: ...
    @overload
    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor: ...
    def interpolate(self, a: Any, b: Any, steps: int = 8) -> Any:
        """The walk from picture `a` to picture `b`, straight through the codes: `steps` pictures, of `a`'s kind.

        Args:
            a: one picture, as the module says.
            b: another.
            steps: pictures, the two restored ends included; at least 2.

        Raises:
            TypeError: a or b is of no kind or shape that is known, or more than one picture.
            UserError: a picture can't be decoded, or the steps are too few.
        """
        if steps < 2:
            raise UserError(f"a walk of {steps} pictures has no two ends: ask for 2 or more")
        start, end = self._batch(a), self._batch(b)
        if (len(start), len(end)) != (1, 1):
            raise TypeError(f"a walk is from one picture to one other, and not from {len(start)} to {len(end)}")
        mix = partial(interpolation.between_two, steps=steps)
        return _like(a, interpolation.interpolate(self.model, [start, end], mix, space.decode_tensor))

    def _encode(self, batch: Tensor) -> Tensor:
        return space.encode(self.model, torch.split(batch, EVALUATION_BATCH))

    def _batch(self, pictures: Any) -> Tensor:
        """Pictures as the model takes them: float32 (n, 3, size, size) in [-1, 1]."""
        if isinstance(pictures, Tensor):
            return self._tensor(pictures)
        if isinstance(pictures, np.ndarray):
            pictures = _pictures_of(pictures)
        elif isinstance(pictures, Image.Image):
            pictures = [pictures]
        if not (isinstance(pictures, Sequence) and pictures and all(isinstance(one, Image.Image) for one in pictures)):
            raise TypeError(f"pictures are PIL pictures, arrays or tensors, at least one, and not {pictures!r:.80}")
        try:
            return normalize(np.stack([decode.to_pixels(one, self.size) for one in pictures]))
        except DecodeError as error:
            raise UserError(f"a picture can't be used: {error}") from error

    def _tensor(self, pictures: Tensor) -> Tensor:
        batch = pictures[None] if pictures.ndim == 3 else pictures
        if batch.shape[1:] != (3, self.size, self.size) or not len(batch) or not batch.is_floating_point():
            raise TypeError(
                f"a tensor of pictures is float (n, 3, {self.size}, {self.size}) in [-1, 1], and not {_kind(pictures)}"
            )
        if not bool((batch.abs() <= 1 + OUTSIDE).all()):
            raise UserError(f"a tensor of pictures is in [-1, 1], and this one in [{batch.min():g}, {batch.max():g}]")
        return batch.float()

    def _codes(self, codes: Any) -> Tensor:
        given = torch.from_numpy(codes) if isinstance(codes, np.ndarray) and codes.dtype.kind == "f" else codes
        shapes = ((self.latent_dim,), (self.latent_dim, 1, 1))
        if not (
            isinstance(given, Tensor) and given.is_floating_point() and given.shape[1:] in shapes and len(given) > 0
        ):
            raise TypeError(f"codes are float (n, {self.latent_dim}, 1, 1), and not {_kind(codes)}")
        return given.float().reshape(len(given), self.latent_dim, 1, 1)


def _file(name: str | Path) -> Path:
    """The file of safetensors that `name` stands for."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    found = run.find_run(str(name), settings.load().output_dir, "the model to load")
    if not found.model.exists():
        raise UserError(f"run {found.id} is {found.state()}, and has no model yet; load another")
    return found.model


def _pictures_of(pixels: npt.NDArray[Any]) -> list[Image.Image]:
    """The pictures in uint8 (n, height, width, 3), or in one without n."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3 or not pixels.size:
        raise TypeError(f"an array of pictures is uint8 (n, height, width, 3), and not {_kind(pixels)}")
    return [Image.fromarray(one) for one in (pixels if pixels.ndim == 4 else pixels[None])]


def _like(given: Any, batch: Tensor) -> Any:
    """Pictures (n, 3, size, size) in [-1, 1], as what was given: a tensor, an array, or a list of PIL pictures."""
    if isinstance(given, Tensor):
        return batch
    return to_uint8(batch) if isinstance(given, np.ndarray) else _pil(batch)


def _pil(batch: Tensor) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in to_uint8(batch)]


def _is_single(pictures: Any) -> bool:
    return isinstance(pictures, Image.Image) or getattr(pictures, "ndim", 4) == 3


def _kind(value: Any) -> str:
    """What was given, in a few words: its kind and, if it has them, its numbers' kind and its shape."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {(*value.shape,)}"
    return type(value).__name__
