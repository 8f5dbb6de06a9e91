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
    """Codes of two distant clusters, three in the first for one in the second."""
    codes = normal(count, dim)
    codes[::4, 0] += apart
    return codes


def test_random_latents_are_as_the_recipe_has_them() -> None:
    expected = torch.randn(1, 128, 1, 1, generator=rng.generator(3, "samples"))
    assert torch.equal(Normal(128).sample(7, 3)[:1], expected)


def test_the_same_seed_gives_the_same_samples_and_the_first_dont_depend_on_the_count() -> None:
    codes = clusters(500, 6, 20)
    for name, prior in priors.fit(codes, 0).items():
        again = priors.fit(codes, 0)[name]
        assert prior.sample(40, 3).shape == (40, 6, 1, 1)
        assert torch.equal(prior.sample(40, 3), again.sample(40, 3)), name
        torch.testing.assert_close(prior.sample(40, 3)[:7], prior.sample(7, 3))
        assert not torch.equal(prior.sample(7, 3), prior.sample(7, 4)), name


def test_a_fitted_gaussian_gives_back_mean_and_covariance() -> None:
    generator = rng.generator(0, "codes")
    mixing = torch.randn(5, 5, generator=generator)
    codes = (torch.randn(20_000, 5, generator=generator) @ mixing.T + torch.arange(5.0))[..., None, None]
    gaussian = Gaussian.fit(codes)
    torch.testing.assert_close(gaussian.factor @ gaussian.factor.T, codes.flatten(1).T.cov(), atol=1e-3, rtol=1e-3)
    samples = gaussian.sample(20_000, 0).flatten(1)
    torch.testing.assert_close(samples.mean(0), torch.arange(5.0), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.T.cov(), mixing @ mixing.T, atol=0.4, rtol=0.1)


def test_a_mixture_finds_the_clusters_where_a_gaussian_fills_the_gap_between_them() -> None:
    codes = clusters(4_000, 8, 20)
    mixture, gaussian = Mixture.fit(codes, 0), Gaussian.fit(codes)
    places = {prior: prior.sample(4_000, 1).flatten(1)[:, 0] for prior in (mixture, gaussian)}
    between = {prior: ((place > 5) & (place < 15)).float().mean().item() for prior, place in places.items()}
    assert between[mixture] == 0
    assert between[gaussian] > 0.2
    assert (places[mixture] > 10).float().mean().item() == pytest.approx(0.25, abs=0.03)
    far = mixture.sample(4_000, 1).flatten(1)[places[mixture] > 10]
    torch.testing.assert_close(far.T.cov(), torch.eye(8), atol=0.25, rtol=0)


def test_codes_that_are_gaussian_get_one_component_with_their_mean_and_covariance() -> None:
    mixing = torch.randn(5, 5, generator=rng.generator(0, "mixing"))
    codes = (normal(5_000, 5).flatten(1) @ mixing.T + 3)[..., None, None]
    mixture = Mixture.fit(codes, 0)
    assert mixture.weights.tolist() == [1]
    torch.testing.assert_close(
        mixture.basis @ mixture.basis.T, Gaussian.fit(codes).factor @ Gaussian.fit(codes).factor.T
    )
    torch.testing.assert_close(mixture.sample(9_000, 1).flatten(1).mean(0), mixture.mean, atol=0.1, rtol=0.05)


def test_copies_of_codes_dont_make_more_components() -> None:
    codes = normal(300, 10).repeat(10, 1, 1, 1)  # each is among those that judge and among those that are learned
    assert Mixture.fit(codes, 0).weights.tolist() == [1]


def test_clusters_of_few_pictures_share_a_covariance() -> None:
    mixture = Mixture.fit(clusters(100, 14, 40), 0)  # of full ones each would have 105 numbers
    assert len(mixture.weights) >= 2
    assert torch.equal(mixture.factors[0], mixture.factors[1])


def test_samples_of_neighbours_lie_between_a_train_code_and_one_of_its_nearest() -> None:
    codes = normal(60, 3)
    points = codes.flatten(1)
    nearest = torch.cdist(points, points).argsort(1)[:, 1:6]
    for sample in Neighbours.fit(codes, 0).sample(50, 1).flatten(1):
        steps = points[nearest] - points[:, None]
        part = ((sample - points)[:, None] * steps).sum(2) / steps.square().sum(2)
        off = (sample - points[:, None] - part[..., None] * steps).norm(dim=2)
        assert ((off < 1e-5) & (part > -1e-5) & (part < 1 + 1e-5)).any()


def test_copies_are_no_neighbours() -> None:
    codes = normal(30, 4).repeat(5, 1, 1, 1) + 1e-5 * normal(150, 4, seed=1)
    fitted = Neighbours.fit(codes, 0)
    assert len(fitted.codes) == 30
    steps = torch.cdist(fitted.sample(100, 0).flatten(1), codes.flatten(1)).amin(1)
    assert steps.median() > 0.05


@pytest.mark.parametrize("count", [1, 2, 3, 9, 25, 60])
def test_few_pictures_and_numbers_that_never_vary_still_give_samples(count: int, tmp_path: Path) -> None:
    codes = normal(count, 50)
    codes[:, 7] = 2.5
    priors.save(priors.fit(codes, 0), tmp_path / "priors.safetensors")
    for name, prior in priors.load(tmp_path / "priors.safetensors").items():
        samples = prior.sample(20, 1).flatten(1)
        assert samples.isfinite().all(), name
        if name in FITTED:
            torch.testing.assert_close(samples[:, 7], torch.full((20,), 2.5), atol=1e-4, rtol=0)
            assert torch.linalg.matrix_rank(samples - codes.flatten(1).mean(0), rtol=1e-3) <= min(count, 20), name


def test_codes_that_are_all_alike_are_their_own_samples() -> None:
    codes = normal(1, 5).repeat(40, 1, 1, 1)
    fitted = priors.fit(codes, 0)
    for name in FITTED:
        torch.testing.assert_close(fitted[name].sample(4, 1), codes[:4])  # type: ignore[index]


def test_directions_without_a_mixture_keep_their_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors, "MIXED", 2)
    codes = clusters(4_000, 6, 20)
    mixture = Mixture.fit(codes, 0)
    assert mixture.centres.shape[1] == 2
    assert len(mixture.centres) > 1
    samples = mixture.sample(8_000, 1).flatten(1)
    torch.testing.assert_close(samples.T.cov(), codes.flatten(1).T.cov(), atol=0.15, rtol=0.1)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    fitted = priors.fit(clusters(300, 4, 20), 0)
    priors.save(fitted, tmp_path / "priors.safetensors")
    loaded = priors.load(tmp_path / "priors.safetensors")
    assert list(loaded) == list(fitted)
    assert all(torch.equal(loaded[name].sample(9, 1), prior.sample(9, 1)) for name, prior in fitted.items())
    first = (tmp_path / "priors.safetensors").read_bytes()
    priors.save(priors.fit(clusters(300, 4, 20), 0), tmp_path / "priors.safetensors")
    assert (tmp_path / "priors.safetensors").read_bytes() == first


def test_what_holds_no_priors_is_told(tmp_path: Path) -> None:
    path = tmp_path / "priors.safetensors"

    def refused() -> str:
        with pytest.raises(UserError, match=r"priors\.safetensors doesn't hold priors of this version") as told:
            priors.load(path)
        return str(told.value)

    path.write_bytes(b"no")
    refused()
    save_file({"mean": torch.zeros(4), "factor": torch.eye(4)}, path)
    assert "gaussian.mean" in refused()
    priors.save(priors.fit(normal(30, 4), 0), path)
    whole = load_file(path)
    save_file({**whole, "gaussian.factor": torch.eye(5)}, path)
    assert "gaussian.factor is torch.float32 of (5, 5), and not torch.float32 of (4, 4)" in refused()
    save_file({**whole, "neighbours.nearest": whole["neighbours.nearest"] + 26}, path)
    assert "neighbours that are none of its codes" in refused()
    save_file({name: tensor for name, tensor in whole.items() if name != "mixture.basis"}, path)
    assert "mixture.basis" in refused()
    save_file({**whole, "other": torch.zeros(1)}, path)
    assert "it holds other" in refused()


def test_fourteen_thousand_codes_are_fitted_in_seconds() -> None:
    generator = rng.generator(0, "codes")
    centres = torch.randn(16, 128, generator=generator) * 2
    codes = torch.randn(14_000, 128, generator=generator) + centres[torch.randint(16, (14_000,), generator=generator)]
    begun = time.process_time()
    priors.fit(codes[..., None, None], 0)
    assert time.process_time() - begun < 60  # of one CPU's; about 10 alone


def test_scikit_learn_is_imported_by_nothing_but_fitting() -> None:
    code = "import sys, catae.__main__, catae.inference.gallery; print('sklearn' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "False"
