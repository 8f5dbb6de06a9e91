"""FID and KID: how far sets of pictures are from each other in the features of Inception v3, as the literature has it.

They need a package (the extra `fid`), minutes, and weights of 91 MB that were learned from other pictures, of 299x299
pixels, to which pictures are enlarged. Hence they are no part of the job, as `catae.wasserstein` is.
"""

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from catae.data import split
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.evaluation import samples
from catae.latent import priors
from catae.model import weights
from catae.run import Run

WEIGHTS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
AT_A_TIME = 32  # pictures


@dataclass(frozen=True)
class Distance:
    """Distances between two sets of pictures; 0 is none.

    Attributes:
        fid: Fréchet inception distance (Heusel et al. 2017, https://arxiv.org/abs/1706.08500). The fewer pictures, the
            larger it is: compare it with the floor, and with others at as many pictures only.
        kid: kernel inception distance (Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401), which doesn't depend
            on the number of pictures, but for chance.
    """

    fid: float
    kid: float


def network(file: Path | None) -> Any:
    """Inception v3 with the weights that all published numbers are taken with.

    Args:
        file: that of the weights; None downloads it, or takes it from PyTorch's cache.

    Raises:
        UserError: the package or the weights are missing.
    """
    if find_spec("torch_fidelity") is None:
        raise UserError("FID needs the library torch-fidelity: pip install 'catae[fid]'")
    if file is not None and not file.is_file():
        raise UserError(f"{file} is no file; --weights should be that of {WEIGHTS}")
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file) if file else None)
    except OSError as error:
        raise UserError(
            f"FID needs the weights of Inception v3, which can't be downloaded ({error}): get {WEIGHTS} elsewhere, and "
            "name the file with --weights"
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file or 'what was downloaded'} holds no weights of Inception v3: {reason}") from error


def measure(run: Run, prior: priors.Name, seed: int, file: Path | None) -> tuple[int, dict[str, Distance]]:
    """Distances from test pictures of a run: of samples of a prior, and of train pictures, which are the floor.

    Args:
        run: a finished one, whose decoded pictures are still there.
        prior: what the latents of the samples are drawn from.
        seed: decides the samples.
        file: as for `network`.

    Returns:
        How many pictures each set has, and the distances by what the pictures are.

    Raises:
        UserError: the package, the weights or the run's pictures are missing.
    """
    inception = network(file)
    images = ImageStore(Path(run.read()["data"]["store"]))
    parts = split.open_split(run.split, images.names)
    train, test = samples.real(images, parts, seed)
    drawn = samples.samples(weights.load(run.model), priors.load(run.priors), prior, len(test), seed)
    return len(test), {prior: distance(inception, test, drawn), "train pictures": distance(inception, test, train)}


@torch.inference_mode()
def distance(inception: Any, a: Pixels, b: Pixels) -> Distance:
    """FID and KID between two equal numbers of pictures, at least 2: uint8 (pictures, size, size, 3)."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance
    from torchmetrics.wrappers import FeatureShare

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*save all extracted features")  # 8 KB for each of at most 2,048 pictures
        # All pictures at once: several subsets of them would be drawn by PyTorch's global generator.
        kid = KernelInceptionDistance(inception, subsets=1, subset_size=len(a))
    metrics = FeatureShare({"fid": FrechetInceptionDistance(inception), "kid": kid})
    for pixels, real in ((a, True), (b, False)):
        for part in torch.split(torch.from_numpy(pixels).permute(0, 3, 1, 2), AT_A_TIME):
            metrics.update(part, real=real)
    found = metrics.compute()
    return Distance(found["fid"].item(), found["kid"][0].item())
