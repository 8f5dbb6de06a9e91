"""A flat map of codes, with the pictures that they stand for in their places."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from catae.data import loader, split
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.latent import space
from catae.latent.stats import LatentReport
from catae.model.linalg import moments, principal
from catae.report import figures
from catae.run import Run
from catae.system import rng
from catae.training import projector, trainer

Projection = Literal["pca", "umap"]

MOST = 1000  # pictures on a map, and in TensorBoard's projector
AT_A_TIME = 64  # pictures to make smaller, so that memory doesn't grow with their number
NEIGHBOURS = 15  # UMAP's own default


@dataclass(frozen=True)
class Map:
    """Where codes lie on a plane.

    Attributes:
        points: float64 (codes, 2).
        axes: what the two axes are, for people.
    """

    points: npt.NDArray[np.float64]
    axes: tuple[str, str]


def project(points: Tensor, projection: Projection, seed: int) -> Map:
    """The map of codes of (count, latent_dim, 1, 1).

    Raises:
        UserError: the projection is UMAP, and its library is not installed, or there are fewer than three codes, or
            than two numbers in each.
    """
    return umap(points, seed) if projection == "umap" else pca(points)


def pca(points: Tensor) -> Map:
    """The map onto the two directions in which codes of (count, latent_dim, 1, 1) vary most."""
    flat = points.flatten(1).double()
    mean, covariance = moments(flat)
    directions, variances = principal(covariance, 2)
    shares = (variances / covariance.trace()).nan_to_num().tolist()
    placed = (flat - mean) @ directions.T
    names = [f"principal component {number}, {share:.0%} of the variance" for number, share in enumerate(shares, 1)]
    if len(shares) == 1:
        return Map(torch.cat([placed, torch.zeros_like(placed)], 1).numpy(), (names[0], ""))
    return Map(placed.numpy(), (names[0], names[1]))


def umap(points: Tensor, seed: int) -> Map:
    """The map that keeps neighbours among codes of (count, latent_dim, 1, 1) near (McInnes, Healy and Melville 2018,
    https://arxiv.org/abs/1802.03426); far distances on it mean little.

    Raises:
        UserError: umap-learn is not installed, or there are fewer than three codes, or than two numbers in each.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise UserError("--map umap needs umap-learn: pip install 'catae[umap]', or take --map pca") from error
    if len(points) < 3 or points.shape[1] < 2:
        raise UserError(
            f"--map umap needs three pictures and latents of two numbers, and there are {len(points)} and "
            f"{points.shape[1]}; take --map pca"
        )
    # It starts from the map of PCA: its usual start, by eigenvectors of the neighbourhoods, fails for few pictures. One
    # job, since several don't give the same map twice.
    mapper = UMAP(
        n_neighbors=min(NEIGHBOURS, len(points) - 1),
        init=pca(points).points.astype(np.float32),
        random_state=rng.number(seed, "UMAP") % 2**32,
        n_jobs=1,
    )
    placed = mapper.fit_transform(points.flatten(1).numpy())
    return Map(np.asarray(placed, np.float64), ("UMAP: neighbours are near, far distances mean little", ""))


def evenly(positions: Sequence[int], most: int = MOST) -> list[int]:
    """At most so many of the positions, from all over: the pictures of a folder are often sorted by what they show."""
    count = min(most, len(positions))
    return [positions[number * len(positions) // count] for number in range(count)]


def thumbnails(images: ImageStore, positions: Sequence[int], side: int) -> Pixels:
    """The pictures at these positions, made smaller where they are larger than `side`: uint8 (positions, s, s, 3)."""
    side = min(side, images.size)
    small: Pixels = np.empty((len(positions), side, side, 3), np.uint8)
    for start in range(0, len(positions), AT_A_TIME):
        for number, pixels in enumerate(images.take(positions[start : start + AT_A_TIME]), start):
            small[number] = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
    return small


def show(run: Run, images: ImageStore, test: Sequence[int], points: Tensor, clouds: LatentReport) -> None:
    """Draws how wide a run's latents lie, and the map of its test pictures, at most `MOST` of them; writes the latter
    for TensorBoard's projector.

    Args:
        run: whose figure and event log.
        images: the pictures.
        test: the positions of the test pictures.
        points: their codes, (pictures, latent_dim, 1, 1).
        clouds: how the codes of train and test pictures lie.
    """
    chosen = evenly(range(len(test)))
    places, points = [test[number] for number in chosen], points[chosen]
    flat, small = pca(points), thumbnails(images, places, figures.THUMBNAIL)
    spreads = {"Train": clouds.train.deviations, "Test": clouds.test.deviations}
    figures.latents(spreads, flat.points, flat.axes, small, run.latents)
    names = [images.names[place] for place in places]
    projector.write(run.events, points, names, thumbnails(images, places, projector.SIDE))


def draw(run: Run, projection: Projection, seed: int, path: Path) -> None:
    """Draws the map of a run's test pictures, at most `MOST` of them, by the run's model as training
    left it: in the basis that is handed out they vary as much in all directions.

    Raises:
        UserError: the run's pictures are gone, or UMAP is asked for and is not installed.
    """
    store = Path(run.read()["data"]["store"])
    if not store.is_dir():
        raise UserError(f"the pictures of run {run.id} are gone from {store}; train again, and they are read anew")
    images = ImageStore(store)
    shown = evenly(split.open_split(run.split, images.names).test)
    encoded = space.encode(trainer.kept(run.checkpoints), loader.ordered_loader(images, shown))
    flat = project(encoded, projection, seed)
    title = f"The latents of {len(shown)} test pictures of run {run.id}"
    figures.atlas(flat.points, flat.axes, thumbnails(images, shown, figures.THUMBNAIL), path, title)
