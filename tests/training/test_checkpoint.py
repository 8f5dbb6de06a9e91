"""Checkpoints: complete or detected as damaged, and readable by everyone."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import pytest
import torch

from catae.errors import UserError
from catae.system import files
from catae.training import checkpoint


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path("went-off").write_text, ("boom",))


def test_a_state_survives_saving_and_loading(tmp_path: Path) -> None:
    state = {"epoch": 3, "model": {"weight": torch.randn(3)}, "best": None, "name": "x"}
    checkpoint.save(tmp_path / "last.pt", state)
    for loaded in (checkpoint.load(tmp_path / "last.pt"), torch.load(tmp_path / "last.pt", weights_only=True)):
        assert torch.equal(loaded.pop("model")["weight"], state["model"]["weight"])  # type: ignore[index]
        assert loaded == {name: value for name, value in state.items() if name != "model"}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("number", range(1, 9))
def test_a_signal_during_a_save_is_raised_and_keeps_the_old_state(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, atomic_write = tmp_path / "last.pt", files.atomic_write
    checkpoint.save(path, {"epoch": 1})

    class Signalled:
        """A file that gets a signal at its n-th write."""

        writes = 0

        def __init__(self, file: BinaryIO) -> None:
            self.file, self.flush = file, file.flush

        def write(self, data: bytes) -> int:
            self.writes += 1
            if self.writes == number:
                signal.raise_signal(signal.SIGINT)
            return self.file.write(data)

    @contextmanager
    def signalled(*given: Any, **named: Any) -> Iterator[Signalled]:
        with atomic_write(*given, **named) as file:
            yield Signalled(file)

    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_write", signalled)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(path, {"epoch": 2, "weight": torch.zeros(9)})
    assert checkpoint.load(path) == {"epoch": 1}
    assert [left.name for left in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_is_one_line_and_keeps_the_old_state(tiny_disk: Path) -> None:
    path = tiny_disk / "last.pt"
    checkpoint.save(path, {"epoch": 1})
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: No space left on device"):
        checkpoint.save(path, {"epoch": 2, "weights": [torch.zeros(200_000) for _ in range(9)]})
    assert checkpoint.load(path) == {"epoch": 1}


def test_the_previous_state_stays_next_to_the_new_one(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        checkpoint.save(tmp_path / "last.pt", {"epoch": epoch})
    assert checkpoint.load(tmp_path / "last.pt") == {"epoch": 3}
    assert checkpoint.load(checkpoint.previous(tmp_path / "last.pt")) == {"epoch": 2}


def test_a_flipped_bit_is_detected_or_harmless(tmp_path: Path) -> None:
    """Bytes outside the records, like the padding between them, carry no state."""
    path, weight = tmp_path / "last.pt", torch.randn(300)
    checkpoint.save(path, {"weight": weight})
    whole, reasons = path.read_bytes(), []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert torch.equal(checkpoint.load(path)["weight"], weight)
        except UserError as error:
            reasons.append(str(error))
    assert len(reasons) > weight.nbytes
    assert {reason.partition(":")[0] for reason in reasons} == {f"{path} is incomplete or corrupt"}


def test_swapped_records_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"a": torch.full((64,), 1.0), "b": torch.full((64,), 2.0)})
    whole = path.read_bytes()
    a, b = torch.full((64,), 1.0).numpy().tobytes(), torch.full((64,), 2.0).numpy().tobytes()
    path.write_bytes(whole.replace(a, b"\0" * 256).replace(b, a).replace(b"\0" * 256, b))
    with pytest.raises(UserError, match=r"last\.pt is incomplete or corrupt: its checksum does not match"):
        checkpoint.load(path)


def test_a_truncated_or_foreign_file_is_one_line_and_runs_no_code(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "torn.pt", {"weight": torch.zeros(1000)})
    (tmp_path / "torn.pt").write_bytes((tmp_path / "torn.pt").read_bytes()[:2000])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "old.pt").write_bytes(b"catae checkpoint 2\n" + b"x" * 1000)
    with ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("cat.txt", "meow")
    for name in ("torn.pt", "empty.pt", "other.pt"):
        with pytest.raises(UserError, match=f"{name} is incomplete or corrupt"):
            checkpoint.load(tmp_path / name)
    with pytest.raises(UserError, match=r"old\.pt is in the format of an earlier version of catae; train again"):
        checkpoint.load(tmp_path / "old.pt")
    checkpoint.save(tmp_path / "bomb.pt", {"model": Bomb()})
    with pytest.raises(UserError, match=r"bomb\.pt contains something other than tensors and plain values"):
        checkpoint.load(tmp_path / "bomb.pt")
    assert not Path("went-off").exists()
    with pytest.raises(UserError, match=r"cannot read .*gone\.pt: No such file"):
        checkpoint.load(tmp_path / "gone.pt")
