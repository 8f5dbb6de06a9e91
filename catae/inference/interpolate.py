"""Draw paths through latent space: between two images, between four, and along the direction of an attribute."""

from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np

from catae.data.decode import Pixels
from catae.data.transforms import normalize
from catae.errors import UserError
from catae.inference import gallery
from catae.latent import interpolation, space
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.report import animation, figures
from catae.run import Run
from catae.system import files

FORMULAS = {
    "linear": "z = (1 - alpha) * A + alpha * B",
    "spherical": "z on the arc from A to B (slerp), its norm from |A| to |B|",
}
COLUMNS = 8
SIDE, MAX_SIDE = 8, 32  # of the grid between four: 32x32 images of 64x64 are a PNG of about 10 MB
REACH, STEP = 2, 0.5  # of the multiples of an attribute's direction: from -2 to 2 in steps of 0.5


def draw_interpolation(
    model: AutoEncoder,
    ends: Pixels,
    names: Sequence[str],
    steps: int,
    out: Path,
    path: str = "linear",
    rows: int | None = None,
) -> None:
    """Draw the interpolation between two images, as an animation or as a PNG with all steps and the two images.

    Args:
        model: the model.
        ends: uint8 (2, size, size, 3).
        names: names of the two images, for the title.
        steps: number of interpolated images, including both ends.
        out: the `.png`, `.gif`, `.webp` or `.mp4` to write.
        path: 'linear' or 'spherical'.
        rows: rows of the PNG, 1 for a strip; None for rows of 8 images.

    Raises:
        UserError: ffmpeg is missing for an MP4, or `rows` is not possible.
    """
    mix = partial(interpolation.between_two, steps=steps, path=interpolation.PATHS[path])
    pixels = interpolation.interpolate(model, [normalize(ends)], mix, space.decode)
    if out.suffix.lower() in animation.WRITERS:
        if rows is not None:
            raise UserError(f"--rows is {rows}: only a .png has rows, and --out is {out}")
        animation.write_animation(pixels, out)
        return
    title = (
        f"{names[0]} (first), {names[1]} (last), and {steps} steps between them{', row by row' if rows != 1 else ''}:\n"
        f"{FORMULAS[path]}"
    )
    columns = COLUMNS if rows is None else _columns(2 + steps, rows, model.image_size)
    figures.grid(np.concatenate([ends[:1], pixels, ends[1:]]), out, title, columns)


def _columns(count: int, rows: int, size: int) -> int:
    """Return the number of columns of a grid of `count` images in so many rows."""
    if not 1 <= rows <= count:
        raise UserError(f"--rows is {rows}: it must be from 1 to {count}, the number of images")
    columns, limit = ceil(count / rows), figures.max_columns(size)
    if columns > limit:
        raise UserError(f"--rows is {rows}: {columns} images per row are too wide for a PNG; at most {limit} fit")
    return columns


def draw_run_interpolation(
    run: Run, names: Sequence[str], steps: int, seed: int, out: Path, path: str = "linear", rows: int | None = None
) -> list[str]:
    """Draw an interpolation as `draw_interpolation` does, with the model of a run; return the two images' names.

    Args:
        run: the run.
        names: the two images, as `gallery.load_images` takes them; if empty, the seed chooses two test images.
        steps: number of interpolated images, including both ends.
        seed: decides which.
        out: the `.png`, `.gif`, `.webp` or `.mp4` to write.
        path: 'linear' or 'spherical'.
        rows: rows of the PNG, as in `draw_interpolation`.

    Raises:
        UserError: there is no such image, or it cannot be decoded or drawn.
    """
    model = weights.load(run.model)
    test = files.read_json(run.split)["test"]
    pair = list(names) or [test[position] for position in gallery.choose_pair(test, range(len(test)), "", seed)]
    draw_interpolation(model, gallery.load_images(run, pair, model.image_size), pair, steps, out, path, rows)
    return pair


def draw_run_grid(run: Run, names: Sequence[str], side: int, out: Path, path: str = "linear") -> None:
    """Draw the grid between four images, with the model of a run. Its corners are their reconstructions.

    Args:
        run: the run.
        names: four images, as `gallery.load_images` takes them: top left, top right, bottom left, bottom right.
        side: rows and columns, at most 32.
        out: the PNG to write.
        path: 'linear', which is bilinear in the latents, or 'spherical'.

    Raises:
        UserError: there is no such image, it cannot be decoded, or `side` is too large.
    """
    if side > MAX_SIDE:
        raise UserError(f"--steps is {side}: the grid between four images has at most {MAX_SIDE} per row")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}: the grid between four images must be a .png")
    model = weights.load(run.model)
    corners = normalize(gallery.load_images(run, names, model.image_size))
    mix = partial(interpolation.between_four, side=side, path=interpolation.PATHS[path])
    pixels = interpolation.interpolate(model, [corners], mix, space.decode)
    a, b, c, d = names
    title = (
        f"top left: {a}\ntop right: {b}\nbottom left: {c}\nbottom right: {d}\n"
        f"the corners are their reconstructions; between them, {path} interpolation of the latents"
    )
    figures.grid(pixels, out, title, columns=side)


def draw_run_attribute(run: Run, name: str, positives: Sequence[str], negatives: Sequence[str], out: Path) -> None:
    """Draw an image with more and more of an attribute, with the model of a run.

    The method is that of Larsen et al. 2016 (https://arxiv.org/abs/1512.09300).

    Args:
        run: the run.
        name: the image.
        positives: images with the attribute; all are named as `gallery.load_images` takes them.
        negatives: images without it.
        out: the PNG to write.

    Raises:
        UserError: there is no such image, it cannot be decoded, or the two groups are equal.
    """
    if set(positives) == set(negatives):
        raise UserError("--with and --without name the same images, so they define no attribute; name others")
    model = weights.load(run.model)
    groups = [gallery.load_images(run, names, model.image_size) for names in ([name], positives, negatives)]
    steps = np.arange(-REACH, REACH + STEP, STEP).tolist()
    mix = partial(interpolation.along_attribute, positives=len(positives), factors=steps)
    pixels = interpolation.interpolate(model, map(normalize, groups), mix, space.decode)
    title = (
        f"{name} (first), and its latent plus k times a direction, k from -{REACH} to {REACH} in steps of {STEP};\n"
        f"the direction: the mean latent of {len(positives)} with the attribute minus that of {len(negatives)} without"
    )
    figures.grid(np.concatenate([groups[0], pixels]), out, title, columns=1 + len(steps))
