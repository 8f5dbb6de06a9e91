"""Priors to sample latents from: N(0, I), and three priors fitted to the latents of the train images.

`sample(count, seed)` returns latents (count, latent_dim, 1, 1). The same seed gives the same samples, and the
first ones do not depend on the count. A run saves its priors in one file, so that sampling needs no images.
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

POINTS = 16_384  # random latents that the mixture and the neighbours are fitted to; more take time and disk space
COMPONENTS = (1, 2, 4, 8, 16)
MIXED = 256  # directions modelled by the mixture; the time of EM grows with their square
SAME = 0.01  # deviations: latents that differ by less are those of duplicate images
NEAREST = 5  # neighbours, as in SMOTE
OLD_NAME = "prior.safetensors"  # of a run's file in earlier versions


class Prior(Protocol):
    """A distribution of latents."""

    def sample(self, count: int, seed: int) -> Tensor:
        """Return samples (count, latent_dim, 1, 1)."""


Priors = Mapping[Name, Prior]


@dataclass(frozen=True)
class Normal:
    """N(0, I)."""

    latent_dim: int

    def sample(self, count: int, seed: int) -> Tensor:
        """Return `count` draws of `torch.randn(1, latent_dim, 1, 1)`: (count, latent_dim, 1, 1).

        They are drawn one by one, so that the first ones do not depend on the count.
        """
        generator = rng.generator(seed, "samples")
        return torch.cat([torch.randn(1, self.latent_dim, 1, 1, generator=generator) for _ in range(count)])


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with full covariance `factor @ factor.T`.

    Attributes:
        mean: (latent_dim,).
        factor: (latent_dim, latent_dim).
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, latents: Tensor) -> "Gaussian":
        """Return the Gaussian with the mean and the covariance of latents (count, latent_dim, 1, 1).

        The factor is the symmetric root of the covariance: Cholesky's fails with fewer images than dimensions.
        """
        mean, variances, directions = _principal(latents)
        factor = directions * variances.sqrt() @ directions.T
        return cls(mean.float(), factor.float().contiguous())

    def sample(self, count: int, seed: int) -> Tensor:
        """Return the samples of N(0, I) of the same seed, transformed: (count, latent_dim, 1, 1)."""
        noise = Normal(len(self.mean)).sample(count, seed).flatten(1)
        return (self.mean + noise @ self.factor.T)[..., None, None]


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians along the directions in which latents vary most, and one Gaussian along the rest.

    A latent is `mean + basis @ z`, where z is N(0, I) except for its first `mixed` dimensions, which have the mixture's
    distribution.

    Attributes:
        mean: (latent_dim,).
        basis: (latent_dim, latent_dim), the principal directions as columns, scaled by the deviation along each.
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
    def fit(cls, latents: Tensor, seed: int) -> "Mixture":
        """Return the mixture fitted to latents (count, latent_dim, 1, 1) by scikit-learn's expectation maximization.

        The number of components doubles from 1 to at most 16, as long as that makes a held-out tenth of the latents
        significantly more likely. With fewer than two images per dimension, the mixture is one Gaussian.

        Args:
            latents: at least one.
            seed: decides which latents are held out, and the initial components.
        """
        mean, variances, directions = _principal(latents)
        mixed = min(int((variances > 1e-6 * variances[0]).sum()), MIXED)
        points = _distinct(latents, seed).double() - mean
        state = rng.number(seed, "components") % 2**32  # scikit-learn accepts 32 bits
        weights, centres, factors = _mixture(points @ directions[:, :mixed], variances[:mixed], state)
        basis = (
            (directions * variances.sqrt()).float().contiguous()
        )  # as loaded from a file: a transposed one may round otherwise
        return cls(mean.float(), basis, weights, centres, factors.contiguous())

    def sample(self, count: int, seed: int) -> Tensor:
        """Return samples of the mixture: (count, latent_dim, 1, 1)."""
        mixed = self.centres.shape[1]
        uniform = torch.rand(count, generator=rng.generator(seed, "components"))
        components = torch.searchsorted(self.weights.cumsum(0)[:-1], uniform, right=True)
        z = Normal(len(self.mean)).sample(count, seed).flatten(1)
        z[:, :mixed] = self.centres[components] + torch.einsum("nij,nj->ni", self.factors[components], z[:, :mixed])
        return (self.mean + z @ self.basis.T)[..., None, None]


@dataclass(frozen=True)
class Neighbours:
    """Latents of train images, moved a random part of the way towards one of their nearest neighbours, as in SMOTE.

    Samples follow the train latents, whatever their distribution, but each stays close to one of them
    (Chawla et al. 2002, https://arxiv.org/abs/1106.1813).

    Attributes:
        codes: the distinct latents, (count, latent_dim).
        nearest: (count, at most 5), the indices of the nearest neighbours of each latent.
    """

    codes: Tensor
    nearest: Tensor

    @classmethod
    def fit(cls, latents: Tensor, seed: int) -> "Neighbours":
        """Find the nearest neighbours of latents (count, latent_dim, 1, 1), at least one.

        Duplicates are removed: a step towards a duplicate leads nowhere.
        """
        from sklearn.neighbors import NearestNeighbors

        points = _distinct(latents, seed)
        if len(points) == 1:
            return cls(points, torch.zeros(1, 1, dtype=torch.int64))
        search = NearestNeighbors(n_neighbors=min(NEAREST, len(points) - 1), algorithm="brute").fit(points.numpy())
        return cls(points, torch.from_numpy(search.kneighbors(return_distance=False)))

    def sample(self, count: int, seed: int) -> Tensor:
        """Return points between neighbours: (count, latent_dim, 1, 1)."""
        uniform = torch.rand(count, 3, dtype=torch.float64, generator=rng.generator(seed, "neighbours"))
        start = (uniform[:, 0] * len(self.codes)).long()
        towards = self.nearest[start, (uniform[:, 1] * self.nearest.shape[1]).long()]
        return torch.lerp(self.codes[start], self.codes[towards], uniform[:, 2:].float())[..., None, None]


def fit_priors(latents: Tensor, seed: int) -> Priors:
    """Return all priors, fitted to latents (count, latent_dim, 1, 1), at least one."""
    return {
        "randn": Normal(latents.shape[1]),
        "gaussian": Gaussian.fit(latents),
        "mixture": Mixture.fit(latents, seed),
        "neighbours": Neighbours.fit(latents, seed),
    }


def save(priors: Priors, path: Path) -> None:
    """Write priors to `path` as safetensors; N(0, I) has no tensors."""
    tensors = {
        f"{name}.{attribute}": tensor.contiguous()
        for name, prior in priors.items()
        for attribute, tensor in vars(prior).items()
        if isinstance(tensor, Tensor)
    }
    files.write_bytes(path, to_bytes(tensors))


def load(path: Path) -> Priors:
    """Return the priors in the safetensors file `path`.

    Raises:
        UserError: the file cannot be read, or does not hold priors.
    """
    old = path.with_name(OLD_NAME)
    if old.exists() and not path.exists():
        raise UserError(f"{old} is now called {path.name}: rename it")
    try:
        tensors = load_file(path)
        _check(tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} does not hold the priors of this version of catae: {error}; restore it, or train again"
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
    """Check that all tensors exist and have matching shapes; raise KeyError or ValueError otherwise."""
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
            raise ValueError(f"{name} is {tensors[name].dtype} {(*tensors[name].shape,)}, not {kind} {shape}")
    nearest = tensors["neighbours.nearest"]
    if not (components and count and near and nearest.min() >= 0 and nearest.max() < count):
        raise ValueError("it has no components, or indices of neighbours out of range")
    if tensors.keys() != shapes.keys():
        raise ValueError(f"unexpected {', '.join(sorted(tensors.keys() - shapes.keys()))}")


def _principal(latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variances and principal directions (columns) of latents, in descending order, as float64."""
    mean, covariance = moments(latents.flatten(1).double())
    directions, variances = principal(covariance, len(mean))
    return mean, variances.clamp(min=0), directions.T


def _distinct(latents: Tensor, seed: int) -> Tensor:
    """Return at most `POINTS` latents in random order, without duplicates up to rounding: (count, latent_dim).

    Otherwise duplicates of an image would be both among the latents that fit a mixture and among those held out.
    """
    order = torch.randperm(len(latents), generator=rng.generator(seed, "codes to fit"))
    points = latents.flatten(1)[order[:POINTS]]
    deviation = points.std(0, correction=0).clamp(min=torch.finfo(points.dtype).tiny)
    steps = ((points - points.mean(0)) / deviation / SAME).round()
    _, first = np.unique(steps.numpy(), axis=0, return_index=True)
    return points[np.sort(first)]


def _mixture(points: Tensor, variances: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, centres and factors of the mixture for points (count, dim) in random order, with mean 0.

    They describe the points scaled to variance 1 in each dimension.
    """
    count, dim = points.shape
    validation, train = points[: count // 10], points[count // 10 :]
    held_out = (validation / variances.sqrt()).float().numpy()
    best, likelihoods = None, np.float32(-np.inf)
    for components in COMPONENTS:
        if dim == 0 or len(validation) == 0 or len(train) < max(2 * dim, 10 * components):
            break
        fitted = _fit_mixture(components, train, variances, seed)
        gains = fitted.score_samples(held_out) - likelihoods
        if best is not None and gains.mean() <= gains.std() / len(gains) ** 0.5:  # within a standard error
            break
        best, likelihoods = fitted, fitted.score_samples(held_out)
    if best is None or best.n_components == 1:
        return torch.ones(1), torch.zeros(1, dim), torch.eye(dim)[None]
    factors = torch.linalg.cholesky(torch.from_numpy(best.covariances_)).expand(best.n_components, dim, dim)
    return torch.from_numpy(best.weights_).float(), torch.from_numpy(best.means_).float(), factors.float()


def _fit_mixture(components: int, points: Tensor, variances: Tensor, seed: int) -> Any:
    """Return scikit-learn's GaussianMixture, fitted to points (count, dim) scaled to variance 1.

    k-means++ selects the initial centres from the unscaled points: scaling makes directions that separate clusters as
    short as the others, and half of the clusters 40 deviations apart were missed.

    With fewer than four points per component and dimension, all components share one covariance. float64 would take
    twice the time. EM stops early: held-out points decide on its result, and a step of 16 components on 14,000 points
    of 128 dimensions takes 0.5 s.
    """
    from sklearn.cluster import kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    count, dim = points.shape
    full = count >= 4 * components * dim
    scaled = (points / variances.sqrt()).float().numpy()
    _, starts = kmeans_plusplus(points.float().numpy(), components, random_state=seed)
    precision = torch.diag(variances / variances.mean()).float()  # isotropic before scaling
    mixture = GaussianMixture(
        components,
        covariance_type="full" if full else "tied",
        tol=0.01,
        reg_covar=1e-3,
        max_iter=20,
        weights_init=np.full(components, 1 / components, np.float32),
        means_init=scaled[starts],
        precisions_init=(precision.repeat(components, 1, 1) if full else precision).numpy(),
        random_state=seed,
    )
    # One thread: on a busy EPYC, 14,000 points of 128 numbers took 50 s with two OpenBLAS threads and 4 s with one. The
    # result does not depend on the number of CPUs either.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(scaled)
