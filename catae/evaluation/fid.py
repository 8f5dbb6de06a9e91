"""FID and KID: distances between sets of images in the feature space of Inception v3, as in the literature.

They need the extra `fid`, several minutes, and weights of 91 MB trained on other images of 299x299 pixels, to which
images are enlarged. A run therefore reports `evaluation.sliced_wasserstein` instead.
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
BATCH = 32  # images


@dataclass(frozen=True)
class FidScores:
    """Distances between two sets of images; 0 means equal.

    Attributes:
        fid: Fréchet inception distance (Heusel et al. 2017, https://arxiv.org/abs/1706.08500). It grows as the number
            of images falls: compare it with the floor, and with others at the same number of images only.
        kid: kernel inception distance (Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401), whose expectation does
            not depend on the number of images.
    """

    fid: float
    kid: float


def load_inception(file: Path | None) -> Any:
    """Return Inception v3 with the weights that published scores use.

    Args:
        file: the file of the weights; None downloads it, or reads it from PyTorch's cache.

    Raises:
        UserError: the package or the weights are missing.
    """
    if find_spec("torch_fidelity") is None:
        raise UserError("FID needs torch-fidelity: pip install 'catae[fid]'")
    if file is not None and not file.is_file():
        raise UserError(f"cannot read {file}: no such file; --weights takes the file of {WEIGHTS}")
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file) if file else None)
    except OSError as error:
        raise UserError(
            f"cannot download the weights of Inception v3, which FID needs ({error}): get {WEIGHTS} elsewhere, and "
            "pass the file with --weights"
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file or 'the downloaded file'} does not hold weights of Inception v3: {reason}") from error


def score_run(run: Run, prior: priors.Name, seed: int, file: Path | None) -> tuple[int, dict[str, FidScores]]:
    """Return the distances of a run's samples, and of train images, which are the floor, from its test images.

    Args:
        run: a completed run whose images are still cached.
        prior: the prior to sample.
        seed: decides the samples.
        file: the weights, as for `load_inception`.

    Returns:
        The number of images per set, and the distances by set.

    Raises:
        UserError: the package, the weights or the run's images are missing.
    """
    inception = load_inception(file)
    images = ImageStore(Path(run.read()["data"]["store"]))
    parts = split.open_split(run.split, images.names)
    train, test = samples.select_real(images, parts, seed)
    sampled = samples.decode_samples(weights.load(run.model), priors.load(run.priors), prior, len(test), seed)
    return len(test), {
        prior: fid_and_kid(inception, test, sampled),
        "train images": fid_and_kid(inception, test, train),
    }


@torch.inference_mode()
def fid_and_kid(inception: Any, a: Pixels, b: Pixels) -> FidScores:
    """Return FID and KID between two sets of equally many images, at least 2: uint8 (count, size, size, 3)."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance
    from torchmetrics.wrappers import FeatureShare

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*save all extracted features")  # 8 KB for each of at most 2,048 images
        # One subset of all images: several would be drawn from PyTorch's global generator.
        kid = KernelInceptionDistance(inception, subsets=1, subset_size=len(a))
    metrics = FeatureShare({"fid": FrechetInceptionDistance(inception), "kid": kid})
    for pixels, real in ((a, True), (b, False)):
        for batch in torch.split(torch.from_numpy(pixels).permute(0, 3, 1, 2), BATCH):
            metrics.update(batch, real=real)
    values = metrics.compute()
    return FidScores(values["fid"].item(), values["kid"][0].item())
