import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from catae.latent import interpolation, space
from catae.model.autoencoder import AutoEncoder
from catae.system import rng


def test_images_are_encoded_mixed_and_decoded() -> None:
    model = AutoEncoder(32, 16, 4).eval()
    images = torch.rand(3, 3, 32, 32, generator=rng.generator(0, "images")) * 2 - 1
    batches = [images[:1], images[1:]]
    pixels = interpolation.interpolate(model, batches, lambda latents: latents.flip(0), space.decode)
    tensors = interpolation.interpolate(model, batches, lambda latents: latents.flip(0), space.decode_tensor)
    torch.testing.assert_close(tensors, model(images.flip(0)).detach(), atol=1e-6, rtol=1e-5)
    assert np.abs(pixels - (tensors.permute(0, 2, 3, 1).numpy() + 1) * 127.5).max() <= 0.51


def test_the_linear_path_is_a_straight_line() -> None:
    a, b = torch.randn(2, 1, 16, 1, 1, generator=rng.generator(0, "ends"))
    path = interpolation.linear(a, b, 50)
    assert path.shape == (50, 16, 1, 1)
    assert torch.equal(path[0], a[0])
    assert torch.equal(path[-1], b[0])
    for step, alpha in ((7, 7 / 49), (42, 42 / 49)):
        torch.testing.assert_close(path[step], ((1 - alpha) * a + alpha * b)[0])


def test_the_spherical_path_changes_angle_and_norm_at_a_constant_rate() -> None:
    a, b = torch.randn(2, 1, 16, 1, 1, generator=rng.generator(0, "ends"))
    path = interpolation.slerp(a, 3 * b, 51).flatten(1).double()
    torch.testing.assert_close(path[[0, -1]], torch.cat([a, 3 * b]).flatten(1).double())
    turns = cosine_similarity(path[1:], path[:-1]).clamp(max=1).arccos()
    whole = cosine_similarity(a.flatten(1), b.flatten(1)).arccos()
    torch.testing.assert_close(turns, (whole / 50).double().expand(50), atol=1e-4, rtol=1e-3)
    norms = path.norm(dim=1)
    torch.testing.assert_close(norms.diff(), ((norms[-1] - norms[0]) / 50).expand(50), atol=1e-5, rtol=1e-4)


def test_between_unit_latents_slerp_is_shoemakes_formula() -> None:
    a, b = normalize(torch.randn(2, 1, 16, 1, 1, generator=rng.generator(1, "ends")), dim=2)
    omega = (a * b).sum().arccos()
    path = interpolation.slerp(a, b, 5)
    for step, alpha in enumerate((0, 0.25, 0.5, 0.75, 1)):
        expected = (torch.sin((1 - alpha) * omega) * a + torch.sin(alpha * omega) * b) / omega.sin()
        torch.testing.assert_close(path[step : step + 1], expected)


def test_the_spherical_path_is_straight_between_parallel_latents_and_from_or_to_0() -> None:
    a = torch.randn(1, 16, 1, 1, generator=rng.generator(0, "ends"))
    for start, end in ((a, 2.5 * a), (a, a), (0 * a, a), (a, 0 * a), (0 * a, 0 * a), (a, a * (1 + 1e-7))):
        torch.testing.assert_close(
            interpolation.slerp(start, end, 9), interpolation.linear(start, end, 9), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("dim", [1, 2, 128])
def test_the_spherical_path_connects_opposite_latents(dim: int) -> None:
    a = torch.randn(1, dim, 1, 1, generator=rng.generator(0, "ends"))
    path = interpolation.slerp(a, -2 * a, 51)
    assert path.isfinite().all()
    torch.testing.assert_close(path[[0, -1]], torch.cat([a, -2 * a]))
    if dim > 1:  # in one dimension every path crosses 0
        torch.testing.assert_close(path.flatten(1).norm(dim=1), torch.linspace(1, 2, 51) * a.norm())


def test_the_grid_between_four_is_bilinear() -> None:
    corners = torch.randn(4, 6, 1, 1, generator=rng.generator(0, "corners"))
    grid = interpolation.between_four(corners, 5).view(5, 5, 6)
    a, b, c, d = corners.flatten(1)
    for row in range(5):
        for column in range(5):
            down, across = row / 4, column / 4
            top, bottom = (1 - across) * a + across * b, (1 - across) * c + across * d
            torch.testing.assert_close(grid[row, column], (1 - down) * top + down * bottom)


def test_an_attribute_leads_from_the_mean_without_it_to_the_mean_with_it() -> None:
    positives, negatives = (torch.randn(n, 6, 1, 1, generator=rng.generator(n, "codes")) for n in (3, 5))
    latents = torch.cat([negatives.mean(0, keepdim=True), positives, negatives])
    path = interpolation.along_attribute(latents, 3, [0, 0.5, 1])
    torch.testing.assert_close(path[0], negatives.mean(0))
    torch.testing.assert_close(path[1], (negatives.mean(0) + positives.mean(0)) / 2)
    torch.testing.assert_close(path[2], positives.mean(0))
