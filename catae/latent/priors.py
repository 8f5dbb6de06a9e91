"""What random codes are drawn from: N(0, I), as the recipe has it, and three priors fitted to the train codes.

All have the same shape: `sample(count, seed)` gives codes of (count, latent_dim, 1, 1), the same for the same seed, and
the first of them whatever the count. A run keeps its priors in one file, so that samples need no pictures.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from catae.errors import UserError
from catae.model.linalg import moments, principal
from catae.system import files, rng

Name = Literal["randn", "gaussian", "mixture", "neighbours"]

POINTS = 16_384  # codes that a mixture and neighbours are fitted to, at random where there are more: time and disk
COMPONENTS = (1, 2, 4, 8, 16)
MIXED = 256  # directions that are more than Gaussian; EM takes time as their square
SAME = 0.01  # deviations: codes that differ by less are those of copies
NEAREST = 5  # neighbours, as in SMOTE


class Prior(Protocol):
    """What random codes are samples of."""

    def sample(self, count: int, seed: int) -> Tensor:
        """Codes of (count, latent_dim, 1, 1)."""


Priors = Mapping[Name, Prior]


@dataclass(frozen=True)
class Normal:
    """N(0, I)."""

    latent_dim: int

    def sample(self, count: int, seed: int) -> Tensor:
        """`count` codes, each as of `torch.randn(1, latent_dim, 1, 1)`: (count, latent_dim, 1, 1).

        They are drawn one by one, so that the first ones don't depend on how many there are.
        """
        generator = rng.generator(seed, "samples")
        return torch.cat([torch.randn(1, self.latent_dim, 1, 1, generator=generator) for _ in range(count)])


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution over codes, with full covariance `factor @ factor.T`.

    Attributes:
        mean: (latent_dim,).
        factor: (latent_dim, latent_dim).
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, codes: Tensor) -> "Gaussian":
        """The Gaussian with the mean and the covariance of codes of (count, latent_dim, 1, 1).

        The factor is the covariance's symmetric root, and not Cholesky's, which fails where there are fewer
        pictures than dimensions.
        """
        mean, variances, directions = _principal(codes)
        factor = directions * variances.sqrt() @ directions.T
        return cls(mean.float(), factor.float().contiguous())

    def sample(self, count: int, seed: int) -> Tensor:
        """The samples of N(0, I) of the same seed, given this mean and covariance: (count, latent_dim, 1, 1)."""
        noise = Normal(len(self.mean)).sample(count, seed).flatten(1)
        return (self.mean + noise @ self.factor.T)[..., None, None]


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians along the directions in which codes vary most, and one Gaussian along the rest.

    A code is `mean + basis @ z`. Were the codes Gaussian, z would be N(0, I); here its first `mixed` numbers come from
    the mixture.

    Attributes:
        mean: (latent_dim,).
        basis: (latent_dim, latent_dim), the principal directions as columns, each as long as the deviation along it.
        weights: (components,), which sum to 1.
        centres: (components, mixed).
        factors: (components, mixed, mixed); a component's covariance is `factor @ factor.T`.
    """

    mean: Tensor
    basis: Tensor
    weights: Tensor
    centres: Tensor
    factors: Tensor

    @classmethod
    def fit(cls, codes: Tensor, seed: int) -> "Mixture":
        """The mixture for codes of (count, latent_dim, 1, 1), by expectation maximisation (scikit-learn's).

        Of 1, 2, 4, 8, ... components it takes more as long as codes of a tenth of the pictures, which were left out,
        become more likely than by chance. Where there are fewer than two pictures a dimension, it is the Gaussian.

        Args:
            codes: at least one.
            seed: decides which codes are left out, and where the components start.
        """
        mean, variances, directions = _principal(codes)
        mixed = min(int((variances > 1e-6 * variances[0]).sum()), MIXED)
        points = _distinct(codes, seed).double() - mean
        chance = rng.number(seed, "components") % 2**32  # all that scikit-learn takes
        weights, centres, factors = _mixture(points @ directions[:, :mixed], variances[:mixed], chance)
        basis = (
            (directions * variances.sqrt()).float().contiguous()
        )  # as loaded from a file: a transposed one may round otherwise
        return cls(mean.float(), basis, weights, centres, factors.contiguous())

    def sample(self, count: int, seed: int) -> Tensor:
        """Samples of the mixture: (count, latent_dim, 1, 1)."""
        mixed = self.centres.shape[1]
        chances = torch.rand(count, generator=rng.generator(seed, "components"))
        chosen = torch.searchsorted(self.weights.cumsum(0)[:-1], chances, right=True)
        z = Normal(len(self.mean)).sample(count, seed).flatten(1)
        z[:, :mixed] = self.centres[chosen] + torch.einsum("nij,nj->ni", self.factors[chosen], z[:, :mixed])
        return (self.mean + z @ self.basis.T)[..., None, None]


@dataclass(frozen=True)
class Neighbours:
    """Train codes, moved a random part of the way towards one of their nearest.

    SMOTE's way to new samples (Chawla et al. 2002, https://arxiv.org/abs/1106.1813). They lie where codes do, however
    these are distributed; but each is within a step of a train code.

    Attributes:
        codes: (count, latent_dim), distinct.
        nearest: (count, at most 5), the places of each code's nearest others.
    """

    codes: Tensor
    nearest: Tensor

    @classmethod
    def fit(cls, codes: Tensor, seed: int) -> "Neighbours":
        """Looks for the nearest of codes of (count, latent_dim, 1, 1), of which there is at least one.

        Of copies only one is kept: a step from a picture towards its copy would lead nowhere.
        """
        from sklearn.neighbors import NearestNeighbors

        points = _distinct(codes, seed)
        if len(points) == 1:
            return cls(points, torch.zeros(1, 1, dtype=torch.int64))
        search = NearestNeighbors(n_neighbors=min(NEAREST, len(points) - 1), algorithm="brute").fit(points.numpy())
        return cls(points, torch.from_numpy(search.kneighbors(return_distance=False)))

    def sample(self, count: int, seed: int) -> Tensor:
        """Points between neighbours: (count, latent_dim, 1, 1)."""
        chances = torch.rand(count, 3, dtype=torch.float64, generator=rng.generator(seed, "neighbours"))
        start = (chances[:, 0] * len(self.codes)).long()
        towards = self.nearest[start, (chances[:, 1] * self.nearest.shape[1]).long()]
        return torch.lerp(self.codes[start], self.codes[towards], chances[:, 2:].float())[..., None, None]


def fit(codes: Tensor, seed: int) -> Priors:
    """All priors, fitted to codes of (count, latent_dim, 1, 1), at least one; the seed decides what chance does."""
    return {
        "randn": Normal(codes.shape[1]),
        "gaussian": Gaussian.fit(codes),
        "mixture": Mixture.fit(codes, seed),
        "neighbours": Neighbours.fit(codes, seed),
    }


def save(priors: Priors, path: Path) -> None:
    """Writes priors to `path`, as safetensors; N(0, I) needs no tensor."""
    tensors = {
        f"{name}.{attribute}": tensor.contiguous()
        for name, prior in priors.items()
        for attribute, tensor in vars(prior).items()
        if isinstance(tensor, Tensor)
    }
    files.write_bytes(path, to_bytes(tensors))


def load(path: Path) -> Priors:
    """The priors in the safetensors file `path`.

    Raises:
        UserError: the file can't be read, or holds something else.
    """
    try:
        tensors = load_file(path)
        _check(tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} doesn't hold priors of this version of catae: {error}; put it back from a copy, or train again"
        ) from error

    def of(name: Name) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}

    return {
        "randn": Normal(len(tensors["gaussian.mean"])),
        "gaussian": Gaussian(**of("gaussian")),
        "mixture": Mixture(**of("mixture")),
        "neighbours": Neighbours(**of("neighbours")),
    }


def _check(tensors: Mapping[str, Tensor]) -> None:
    """Whether all tensors are there and fit together; KeyError or ValueError says what does not."""
    (dim,) = tensors["gaussian.mean"].shape
    components, mixed = tensors["mixture.centres"].shape
    count, near = tensors["neighbours.nearest"].shape
    shapes = {
        "gaussian.mean": (dim,),
        "gaussian.factor": (dim, dim),
        "mixture.mean": (dim,),
        "mixture.basis": (dim, dim),
        "mixture.weights": (components,),
        "mixture.centres": (components, mixed),
        "mixture.factors": (components, mixed, mixed),
        "neighbours.codes": (count, dim),
        "neighbours.nearest": (count, near),
    }
    for name, shape in shapes.items():
        kind = torch.int64 if name == "neighbours.nearest" else torch.float32
        if tensors[name].shape != shape or tensors[name].dtype != kind:
            raise ValueError(f"{name} is {tensors[name].dtype} of {(*tensors[name].shape,)}, and not {kind} of {shape}")
    nearest = tensors["neighbours.nearest"]
    if not (components and count and near and nearest.min() >= 0 and nearest.max() < count):
        raise ValueError("it has no component, or neighbours that are none of its codes")
    if tensors.keys() != shapes.keys():
        raise ValueError(f"it holds {', '.join(sorted(tensors.keys() - shapes.keys()))}")


def _principal(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variances and principal directions (as columns) of codes, the largest variance first, as float64."""
    mean, covariance = moments(codes.flatten(1).double())
    directions, variances = principal(covariance, len(mean))
    return mean, variances.clamp(min=0), directions.T


def _distinct(codes: Tensor, seed: int) -> Tensor:
    """At most `POINTS` of the codes, in random order, and one of those that differ by rounding: (count, latent_dim).

    Of a picture's copies some would else be among those that judge a mixture, and some among those that it has learned.
    """
    order = torch.randperm(len(codes), generator=rng.generator(seed, "codes to fit"))
    points = codes.flatten(1)[order[:POINTS]]
    deviation = points.std(0, correction=0).clamp(min=torch.finfo(points.dtype).tiny)
    steps = ((points - points.mean(0)) / deviation / SAME).round()
    _, first = np.unique(steps.numpy(), axis=0, return_index=True)
    return points[np.sort(first)]


def _mixture(points: Tensor, variances: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, centres and factors of the mixture for (count, dim) points in random order, which have mean 0.

    They are of the points as they would be with variance 1 in each dimension.
    """
    count, dim = points.shape
    judged, learned = points[: count // 10], points[count // 10 :]
    held_out = (judged / variances.sqrt()).float().numpy()
    best, likelihoods = None, np.float32(-np.inf)
    for components in COMPONENTS:
        if dim == 0 or len(judged) == 0 or len(learned) < max(2 * dim, 10 * components):
            break
        fitted = _expectation_maximisation(components, learned, variances, seed)
        gains = fitted.score_samples(held_out) - likelihoods
        if best is not None and gains.mean() <= gains.std() / len(gains) ** 0.5:  # its standard error
            break
        best, likelihoods = fitted, fitted.score_samples(held_out)
    if best is None or best.n_components == 1:
        return torch.ones(1), torch.zeros(1, dim), torch.eye(dim)[None]
    factors = torch.linalg.cholesky(torch.from_numpy(best.covariances_)).expand(best.n_components, dim, dim)
    return torch.from_numpy(best.weights_).float(), torch.from_numpy(best.means_).float(), factors.float()


def _expectation_maximisation(components: int, points: Tensor, variances: Tensor, seed: int) -> Any:
    """scikit-learn's GaussianMixture of points of (count, dim), divided by their deviations.

    It starts at points that are far from each other as they are, before that division: it makes directions that hold
    two clusters as short as those that hold none, and of clusters 40 deviations apart half were missed.

    The components have one covariance between them where there are fewer than four points for each of a row's numbers.
    In float64 it would take as long again. EM ends early: what it has left out judges it, and on 14,000 points of 128
    numbers a step of 16 components takes 0.5 s.
    """
    from sklearn.cluster import kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    count, dim = points.shape
    full = count >= 4 * components * dim
    white = (points / variances.sqrt()).float().numpy()
    _, starts = kmeans_plusplus(points.float().numpy(), components, random_state=seed)
    alike = torch.diag(variances / variances.mean()).float()  # the same in all directions, before the division
    mixture = GaussianMixture(
        components,
        covariance_type="full" if full else "tied",
        tol=0.01,
        reg_covar=1e-3,
        max_iter=20,
        weights_init=np.full(components, 1 / components, np.float32),
        means_init=white[starts],
        precisions_init=(alike.repeat(components, 1, 1) if full else alike).numpy(),
        random_state=seed,
    )
    # One thread: on a busy EPYC, 14,000 points of 128 numbers took 50 s with two OpenBLAS threads and 4 s with one. The
    # result does not depend on the number of CPUs either.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(white)
