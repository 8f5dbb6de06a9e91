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


def test_the_state_before_stays_beside_the_new_one(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        checkpoint.save(tmp_path / "last.pt", {"epoch": epoch})
    assert checkpoint.load(tmp_path / "last.pt") == {"epoch": 3}
    assert checkpoint.load(checkpoint.previous(tmp_path / "last.pt")) == {"epoch": 2}


def test_a_single_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {"weight": torch.zeros(100)})
    whole = (tmp_path / "last.pt").read_bytes()
    for place in range(0, len(whole), 37):
        (tmp_path / "last.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"last\.pt is no whole checkpoint"):
            checkpoint.load(tmp_path / "last.pt")


def test_what_is_no_checkpoint_is_told_and_a_hostile_one_runs_no_code(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "torn.pt", {"weight": torch.zeros(1000)})
    (tmp_path / "torn.pt").write_bytes((tmp_path / "torn.pt").read_bytes()[:2000])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save(Bomb(), tmp_path / "foreign.pt")
    for name in ("torn.pt", "empty.pt", "foreign.pt"):
        with pytest.raises(UserError, match=f"{name} is no whole checkpoint"):
            checkpoint.load(tmp_path / name)
    checkpoint.save(tmp_path / "bomb.pt", {"model": Bomb()})
    with pytest.raises(UserError, match=r"bomb\.pt holds something else than tensors and plain values"):
        checkpoint.load(tmp_path / "bomb.pt")
    assert not Path("went-off").exists()
    with pytest.raises(UserError, match=r"gone\.pt can't be read: No such file"):
        checkpoint.load(tmp_path / "gone.pt")
