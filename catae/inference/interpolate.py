"""Ways through the latents: between two pictures, between four, and along what tells two groups of them apart."""

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
    "spherical": "z on the arc from A to B (slerp), its norm from |A| to |B|,",
}
SHAPES = {"linear": "straight", "spherical": "along arcs (slerp)"}
COLUMNS = 8
SIDE, LARGEST_SIDE = 8, 32  # of the grid between four: 32 x 32 pictures of 64x64 are a PNG of some 10 MB
REACH, STEP = 2, 0.5  # how far along an attribute's direction, and how far at a time


def draw_walk(
    model: AutoEncoder,
    ends: Pixels,
    names: Sequence[str],
    steps: int,
    path: Path,
    way: str = "linear",
    rows: int | None = None,
) -> None:
    """Draws a walk between two pictures: an animation moves through it, a PNG shows all of it with the two pictures.

    Args:
        model: what encodes and decodes.
        ends: uint8 (2, size, size, 3).
        names: of the two pictures, for the title.
        steps: pictures in the walk, both ends included.
        path: the `.png`, `.gif`, `.webp` or `.mp4` to write.
        way: 'linear' or 'spherical'.
        rows: of the PNG, 1 for a strip; None for as many as 8 pictures in each need.

    Raises:
        UserError: an MP4 is asked for, and ffmpeg is missing; or there can't be such rows.
    """
    mix = partial(interpolation.between_two, steps=steps, path=interpolation.PATHS[way])
    pixels = interpolation.interpolate(model, [normalize(ends)], mix, space.decode)
    if path.suffix.lower() in animation.WRITERS:
        if rows is not None:
            raise UserError(f"--rows is {rows}: only a .png has rows, and --out is {path}")
        animation.write_animation(pixels, path)
        return
    title = (
        f"{names[0]} (first), {names[1]} (last), and between them {steps} steps of\n"
        f"{FORMULAS[way]} through the latents{', row by row' if rows != 1 else ''}"
    )
    columns = COLUMNS if rows is None else _columns(2 + steps, rows, model.image_size)
    figures.grid(np.concatenate([ends[:1], pixels, ends[1:]]), path, title, columns)


def _columns(count: int, rows: int, size: int) -> int:
    """In how many columns so many pictures have so many rows."""
    if not 1 <= rows <= count:
        raise UserError(f"--rows is {rows}: it must be from 1 to {count}, the pictures that are drawn")
    columns, most = ceil(count / rows), figures.max_columns(size)
    if columns > most:
        raise UserError(f"--rows is {rows}: {columns} pictures in a row are too wide for a PNG, {most} are the most")
    return columns


def walk_in(
    run: Run, wanted: Sequence[str], steps: int, seed: int, path: Path, way: str = "linear", rows: int | None = None
) -> list[str]:
    """Draws a walk as `draw_walk` does, with the model of a run; gives the names of the two pictures.

    Args:
        run: whose model.
        wanted: the two pictures, as `gallery.load_images` takes them; of none, two test pictures are taken by seed.
        steps: pictures in the walk, both ends included.
        seed: decides which.
        path: the `.png`, `.gif`, `.webp` or `.mp4` to write.
        way: 'linear' or 'spherical'.
        rows: of the PNG, as in `draw_walk`.

    Raises:
        UserError: there is no such picture, or it can't be decoded, or drawn so.
    """
    model = weights.load(run.model)
    test = files.read_json(run.split)["test"]
    names = list(wanted) or [test[position] for position in gallery.choose_pair(test, range(len(test)), "", seed)]
    draw_walk(model, gallery.load_images(run, names, model.image_size), names, steps, path, way, rows)
    return names


def grid_in(run: Run, wanted: Sequence[str], side: int, path: Path, way: str = "linear") -> None:
    """Draws the grid between four pictures, with the model of a run; the corners are their restorations.

    Args:
        run: whose model.
        wanted: four pictures, as `gallery.load_images` takes them: top left, top right, bottom left, bottom right.
        side: pictures in a row, and rows, at most 32.
        path: the PNG to write.
        way: 'linear', which is bilinear in the codes, or 'spherical'.

    Raises:
        UserError: there is no such picture, it can't be decoded, or there are too many to draw.
    """
    if side > LARGEST_SIDE:
        raise UserError(f"--steps is {side}: the grid between four has at most {LARGEST_SIDE} pictures in a row")
    if path.suffix.lower() != ".png":
        raise UserError(f"--out is {path}: the grid between four is a .png")
    model = weights.load(run.model)
    corners = normalize(gallery.load_images(run, wanted, model.image_size))
    mix = partial(interpolation.between_four, side=side, path=interpolation.PATHS[way])
    pixels = interpolation.interpolate(model, [corners], mix, space.decode)
    a, b, c, d = wanted
    title = (
        f"top left: {a}\ntop right: {b}\nbottom left: {c}\nbottom right: {d}\n"
        f"the corners are their restorations; between them, {SHAPES[way]} through the latents"
    )
    figures.grid(pixels, path, title, columns=side)


def attribute_in(run: Run, wanted: str, positives: Sequence[str], negatives: Sequence[str], path: Path) -> None:
    """Draws a picture with more and more of what tells one group of pictures from another, with the model of a run.

    Larsen et al. 2016 (https://arxiv.org/abs/1512.09300) find attributes so.

    Args:
        run: whose model.
        wanted: the picture.
        having: the pictures that have the attribute; all are named as `gallery.load_images` takes them.
        lacking: those that lack it.
        path: the PNG to write.

    Raises:
        UserError: there is no such picture, it can't be decoded, or the two groups are one.
    """
    if set(positives) == set(negatives):
        raise UserError("--with and --without name the same pictures, which nothing tells apart; name others")
    model = weights.load(run.model)
    groups = [gallery.load_images(run, names, model.image_size) for names in ([wanted], positives, negatives)]
    steps = np.arange(-REACH, REACH + STEP, STEP).tolist()
    mix = partial(interpolation.along_attribute, positives=len(positives), factors=steps)
    pixels = interpolation.interpolate(model, map(normalize, groups), mix, space.decode)
    title = (
        f"{wanted} (first), and its latent plus k times a direction, k from {-REACH} to {REACH} in steps of {STEP};\n"
        f"the direction is the mean latent of {len(positives)} with it minus that of {len(negatives)} without it"
    )
    figures.grid(np.concatenate([groups[0], pixels]), path, title, columns=1 + len(steps))
