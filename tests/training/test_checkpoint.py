import hashlib
import signal
from pathlib import Path

import pytest
import torch

from catae.errors import UserError
from catae.training import checkpoint


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


@pytest.mark.parametrize("number", range(1, 9))
def test_a_signal_while_a_state_is_written_ends_the_writing_as_itself_and_the_old_state_stays(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1})
    digest = hashlib.sha256()

    class Signalled:
        """A digest during whose so many'th part a signal comes, as it may at any of them."""

        parts = 0

        def update(self, data: bytes) -> None:
            digest.update(data)
            self.parts += 1
            if self.parts == number:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", Signalled)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(path, {"epoch": 2, "weight": torch.zeros(9)})
    assert checkpoint.load(path) == {"epoch": 1}
    assert [left.name for left in tmp_path.iterdir()] == ["last.pt"]


def test_a_disk_that_is_full_before_the_state_is_on_it_is_said_in_one_line(tiny_disk: Path) -> None:
    path = tiny_disk / "last.pt"
    checkpoint.save(path, {"epoch": 1})
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: No space left on device"):
        checkpoint.save(path, {"epoch": 2, "weights": [torch.zeros(200_000) for _ in range(9)]})
    assert checkpoint.load(path) == {"epoch": 1}


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
