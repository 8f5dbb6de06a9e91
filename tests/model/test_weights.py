import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from catae.errors import UserError
from catae.model import weights
from catae.model.autoencoder import AutoEncoder


def test_a_saved_model_is_loaded_with_its_shape(tmp_path: Path) -> None:
    model = AutoEncoder(image_size=32, latent_dim=7, width=4).to(memory_format=torch.channels_last)
    weights.save(model, tmp_path / "model.safetensors")
    loaded = weights.load(tmp_path / "model.safetensors")
    assert (loaded.image_size, loaded.latent_dim, loaded.width) == (32, 7, 4)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["catae"]) == {
            "image_size": 32, "latent_dim": 7, "width": 4, "activation": "relu", "whitened": False,
            "pixels": "RGB, (x / 255 - 0.5) / 0.5, in [-1, 1]",
        }  # fmt: skip


def test_files_without_a_model_are_rejected(tmp_path: Path) -> None:
    weights.save(AutoEncoder(image_size=32, width=4), tmp_path / "whole.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    rest = '"activation": "relu", "whitened": false'
    shape = f'{{"image_size": 32, "latent_dim": 7, "width": 4, {rest}}}'
    save_file({"a": torch.zeros(3)}, tmp_path / "lying.safetensors", {"catae": shape})
    save_file({"a": torch.zeros(3)}, tmp_path / "odd.safetensors", {"catae": "[1]"})
    save_file(
        {"a": torch.zeros(3)}, tmp_path / "old.safetensors", {"catae": '{"image_size": 32, "activation": "relu"}'}
    )
    with pytest.raises(UserError, match="an earlier version of catae wrote it; train again"):
        weights.load(tmp_path / "old.safetensors")
    # A few bytes that request terabytes: the shapes are compared before memory is allocated.
    huge = f'{{"image_size": 64, "latent_dim": 100000, "width": 100000, {rest}}}'
    save_file({"a": torch.zeros(3)}, tmp_path / "huge.safetensors", {"catae": huge})
    for number, value in enumerate(("1e400", "9" * 5000, "-5", '"x"', "null")):
        odd = f'{{"image_size": {value}, "latent_dim": 7, "width": 4, {rest}}}'
        save_file({"a": torch.zeros(3)}, tmp_path / f"odd{number}.safetensors", {"catae": odd})
    for name in ("odd0", "odd1", "odd2", "odd3", "odd4", "huge", "torn", "empty", "foreign", "lying", "odd", "gone"):
        with pytest.raises(UserError, match=f"{name}.safetensors does not hold a model of catae"):
            weights.load(tmp_path / f"{name}.safetensors")
