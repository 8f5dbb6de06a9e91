import pickle
from pathlib import Path

import pytest
import torch

from catae import checkpoint
from catae.errors import UserError


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path("went-off").write_text, ("boom",))


def test_a_state_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    state = {"epoch": 3, "model": {"weight": torch.randn(3)}, "best": None, "name": "x"}
    checkpoint.save(tmp_path / "last.pt", state)
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(loaded.pop("model")["weight"], state.pop("model")["weight"])  # type: ignore[index]
    assert loaded == state
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_broken_checkpoint_is_told_and_a_hostile_one_runs_no_code(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {"weight": torch.zeros(1000)})
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[:2000])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save(Bomb(), tmp_path / "bomb.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("torn.pt", "empty.pt", "bomb.pt", "pickle.pt"):
        with pytest.raises(UserError, match=f"{name} is no whole checkpoint"):
            checkpoint.load(tmp_path / name)
    assert not Path("went-off").exists()
    with pytest.raises(UserError, match=r"gone\.pt can't be read: No such file"):
        checkpoint.load(tmp_path / "gone.pt")
