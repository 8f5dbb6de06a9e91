import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from catae.errors import UserError
from catae.latent import priors
from catae.latent.priors import Gaussian, Mixture, Neighbours, Normal
from catae.system import rng

FITTED = ("gaussian", "mixture", "neighbours")


def normal(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, 1, 1, generator=rng.generator(seed, "codes"))


def clusters(count: int, dim: int, apart: float) -> Tensor:
    """Return latents of two clusters; the first has three times as many as the second."""
    latents = normal(count, dim)
    latents[::4, 0] += apart
    return latents


def test_normal_samples_are_those_of_torch_randn() -> None:
    expected = torch.randn(1, 128, 1, 1, generator=rng.generator(3, "samples"))
    assert torch.equal(Normal(128).sample(7, 3)[:1], expected)


def test_samples_depend_on_the_seed_and_not_on_the_count() -> None:
    latents = clusters(500, 6, 20)
    for name, prior in priors.fit_priors(latents, 0).items():
        again = priors.fit_priors(latents, 0)[name]
        assert prior.sample(40, 3).shape == (40, 6, 1, 1)
        assert torch.equal(prior.sample(40, 3), again.sample(40, 3)), name
        torch.testing.assert_close(prior.sample(40, 3)[:7], prior.sample(7, 3))
        assert not torch.equal(prior.sample(7, 3), prior.sample(7, 4)), name


def test_a_gaussian_has_the_mean_and_covariance_of_the_latents() -> None:
    generator = rng.generator(0, "codes")
    mixing = torch.randn(5, 5, generator=generator)
    latents = (torch.randn(20_000, 5, generator=generator) @ mixing.T + torch.arange(5.0))[..., None, None]
    gaussian = Gaussian.fit(latents)
    torch.testing.assert_close(gaussian.factor @ gaussian.factor.T, latents.flatten(1).T.cov(), atol=1e-3, rtol=1e-3)
    samples = gaussian.sample(20_000, 0).flatten(1)
    torch.testing.assert_close(samples.mean(0), torch.arange(5.0), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.T.cov(), mixing @ mixing.T, atol=0.4, rtol=0.1)


def test_a_mixture_finds_clusters_that_a_gaussian_joins() -> None:
    latents = clusters(4_000, 8, 20)
    mixture, gaussian = Mixture.fit(latents, 0), Gaussian.fit(latents)
    places = {prior: prior.sample(4_000, 1).flatten(1)[:, 0] for prior in (mixture, gaussian)}
    between = {prior: ((place > 5) & (place < 15)).float().mean().item() for prior, place in places.items()}
    assert between[mixture] == 0
    assert between[gaussian] > 0.2
    assert (places[mixture] > 10).float().mean().item() == pytest.approx(0.25, abs=0.03)
    far = mixture.sample(4_000, 1).flatten(1)[places[mixture] > 10]
    torch.testing.assert_close(far.T.cov(), torch.eye(8), atol=0.25, rtol=0)


def test_gaussian_latents_get_one_component() -> None:
    mixing = torch.randn(5, 5, generator=rng.generator(0, "mixing"))
    latents = (normal(5_000, 5).flatten(1) @ mixing.T + 3)[..., None, None]
    mixture = Mixture.fit(latents, 0)
    assert mixture.weights.tolist() == [1]
    torch.testing.assert_close(
        mixture.basis @ mixture.basis.T, Gaussian.fit(latents).factor @ Gaussian.fit(latents).factor.T
    )
    torch.testing.assert_close(mixture.sample(9_000, 1).flatten(1).mean(0), mixture.mean, atol=0.1, rtol=0.05)


def test_duplicates_do_not_add_components() -> None:
    latents = normal(300, 10).repeat(10, 1, 1, 1)  # without deduplication, each would be both fitted and held out
    assert Mixture.fit(latents, 0).weights.tolist() == [1]


def test_clusters_of_few_images_share_a_covariance() -> None:
    mixture = Mixture.fit(clusters(100, 14, 40), 0)  # a full covariance has 105 parameters
    assert len(mixture.weights) >= 2
    assert torch.equal(mixture.factors[0], mixture.factors[1])


def test_samples_of_neighbours_lie_between_a_latent_and_its_neighbour() -> None:
    latents = normal(60, 3)
    points = latents.flatten(1)
    nearest = torch.cdist(points, points).argsort(1)[:, 1:6]
    for sample in Neighbours.fit(latents, 0).sample(50, 1).flatten(1):
        steps = points[nearest] - points[:, None]
        part = ((sample - points)[:, None] * steps).sum(2) / steps.square().sum(2)
        off = (sample - points[:, None] - part[..., None] * steps).norm(dim=2)
        assert ((off < 1e-5) & (part > -1e-5) & (part < 1 + 1e-5)).any()


def test_duplicates_are_not_neighbours() -> None:
    latents = normal(30, 4).repeat(5, 1, 1, 1) + 1e-5 * normal(150, 4, seed=1)
    fitted = Neighbours.fit(latents, 0)
    assert len(fitted.codes) == 30
    steps = torch.cdist(fitted.sample(100, 0).flatten(1), latents.flatten(1)).amin(1)
    assert steps.median() > 0.05


@pytest.mark.parametrize("count", [1, 2, 3, 9, 25, 60])
def test_few_images_and_constant_dimensions_give_samples(count: int, tmp_path: Path) -> None:
    latents = normal(count, 50)
    latents[:, 7] = 2.5
    priors.save(priors.fit_priors(latents, 0), tmp_path / "priors.safetensors")
    for name, prior in priors.load(tmp_path / "priors.safetensors").items():
        samples = prior.sample(20, 1).flatten(1)
        assert samples.isfinite().all(), name
        if name in FITTED:
            torch.testing.assert_close(samples[:, 7], torch.full((20,), 2.5), atol=1e-4, rtol=0)
            assert torch.linalg.matrix_rank(samples - latents.flatten(1).mean(0), rtol=1e-3) <= min(count, 20), name


def test_equal_latents_are_their_own_samples() -> None:
    latents = normal(1, 5).repeat(40, 1, 1, 1)
    fitted = priors.fit_priors(latents, 0)
    for name in FITTED:
        torch.testing.assert_close(fitted[name].sample(4, 1), latents[:4])  # type: ignore[index]


def test_directions_outside_the_mixture_keep_their_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors, "MIXED", 2)
    latents = clusters(4_000, 6, 20)
    mixture = Mixture.fit(latents, 0)
    assert mixture.centres.shape[1] == 2
    assert len(mixture.centres) > 1
    samples = mixture.sample(8_000, 1).flatten(1)
    torch.testing.assert_close(samples.T.cov(), latents.flatten(1).T.cov(), atol=0.15, rtol=0.1)


def test_saved_priors_are_loaded(tmp_path: Path) -> None:
    fitted = priors.fit_priors(clusters(300, 4, 20), 0)
    priors.save(fitted, tmp_path / "priors.safetensors")
    loaded = priors.load(tmp_path / "priors.safetensors")
    assert list(loaded) == list(fitted)
    assert all(torch.equal(loaded[name].sample(9, 1), prior.sample(9, 1)) for name, prior in fitted.items())
    first = (tmp_path / "priors.safetensors").read_bytes()
    priors.save(priors.fit_priors(clusters(300, 4, 20), 0), tmp_path / "priors.safetensors")
    assert (tmp_path / "priors.safetensors").read_bytes() == first


def test_the_error_for_the_old_file_name_gives_the_new_one(tmp_path: Path) -> None:
    priors.save(priors.fit_priors(normal(30, 4), 0), tmp_path / "prior.safetensors")
    with pytest.raises(UserError, match=r"prior\.safetensors is now called priors\.safetensors: rename it"):
        priors.load(tmp_path / "priors.safetensors")


def test_files_without_priors_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "priors.safetensors"

    def rejection() -> str:
        with pytest.raises(UserError, match=r"priors\.safetensors does not hold the priors of this version") as error:
            priors.load(path)
        return str(error.value)

    path.write_bytes(b"no")
    rejection()
    save_file({"mean": torch.zeros(4), "factor": torch.eye(4)}, path)
    assert "gaussian.mean" in rejection()
    priors.save(priors.fit_priors(normal(30, 4), 0), path)
    whole = load_file(path)
    save_file({**whole, "gaussian.factor": torch.eye(5)}, path)
    assert "gaussian.factor is torch.float32 (5, 5), not torch.float32 (4, 4)" in rejection()
    save_file({**whole, "neighbours.nearest": whole["neighbours.nearest"] + 26}, path)
    assert "indices of neighbours out of range" in rejection()
    save_file({name: tensor for name, tensor in whole.items() if name != "mixture.basis"}, path)
    assert "mixture.basis" in rejection()
    save_file({**whole, "other": torch.zeros(1)}, path)
    assert "unexpected other" in rejection()


def test_fourteen_thousand_latents_are_fitted_within_a_minute() -> None:
    generator = rng.generator(0, "codes")
    centres = torch.randn(16, 128, generator=generator) * 2
    latents = torch.randn(14_000, 128, generator=generator) + centres[torch.randint(16, (14_000,), generator=generator)]
    begun = time.process_time()
    priors.fit_priors(latents[..., None, None], 0)
    assert time.process_time() - begun < 60  # CPU seconds; about 10 on an idle machine


def test_only_fitting_imports_scikit_learn() -> None:
    code = "import sys, catae.__main__, catae.inference.gallery; print('sklearn' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.strip() == "False"
