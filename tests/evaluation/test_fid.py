"""FID without the weights of Inception: the errors, and the scores in the feature space of a smaller network."""

from importlib.util import find_spec
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from catae.__main__ import main
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.evaluation import fid
from catae.settings import Settings

needs_package = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")


class Colours(nn.Module):
    """The mean colour of an image as features, in place of Inception."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3)) / 255


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_without_the_package_the_command_names_the_extra(
    small: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.train(small.model_copy(update={"max_epochs": 1}))
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(small.output_dir))
    assert main(["fid", "--run", "latest"]) == 2
    assert capsys.readouterr().err.endswith("catae: FID needs torch-fidelity: pip install 'catae[fid]'\n")


@needs_package
def test_missing_or_foreign_weights_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"cannot read .*nowhere\.pth: no such file; --weights takes the file of https://"
    ):
        fid.load_inception(tmp_path / "nowhere.pth")
    (tmp_path / "words.pth").write_text("words")
    with pytest.raises(UserError, match=r"words\.pth does not hold weights of Inception v3: "):
        fid.load_inception(tmp_path / "words.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not hold weights of Inception v3: "):
        fid.load_inception(tmp_path / "other.pth")


def test_fid_follows_its_definition_and_both_grow_with_a_colour_shift(synthetic_images: ImageStore) -> None:
    a, b = synthetic_images.take(range(60)), synthetic_images.take(range(60, 120))
    found = fid.fid_and_kid(Colours(), a, b)
    one, two = (pixels.mean((1, 2)) / 255 for pixels in (a, b))
    # |mean - mean|^2 + trace(A + B - 2 sqrt(A B))
    covariances = [np.cov(colours.T) for colours in (one, two)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(sum(covariances)) - 2 * roots
    assert found.fid == pytest.approx(expected, rel=1e-3)
    far = fid.fid_and_kid(Colours(), a, 255 - b)
    assert far.fid > 10 * found.fid
    assert far.kid > max(0, found.kid)
    again = fid.fid_and_kid(Colours(), a, b)
    assert (again.fid, again.kid) == pytest.approx((found.fid, found.kid), rel=1e-3, abs=1e-5)
