import subprocess
import sys
from pathlib import Path

import pytest

from catae.errors import UserError
from catae.system import files


def test_a_file_is_replaced_whole_or_stays_as_it_was(tiny_disk: Path) -> None:
    path = tiny_disk / "new" / "a.json"
    files.write_json(path, {"a": "ä"})
    with pytest.raises(UserError, match=r"No space left on device \(9\.0 MB are needed, \d\.\d MB are free\)"):
        files.write_bytes(path, bytes(9_000_000))
    assert files.read_json(path) == {"a": "ä"}
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_left_of_a_look_at_the_place_to_write(tmp_path: Path) -> None:
    files.check_place(tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_can_be_kept(tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        with files.atomic_write(tmp_path / "new", before=tmp_path / "old") as file:
            file.write(content)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"new": b"3", "old": b"2"}


def test_a_folder_that_cant_be_written_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", closed], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(
            UserError, match=r"a\.json can't be written: Read-only file system; give another --output-dir"
        ):
            files.write_json(closed / "a.json", {})
    finally:
        subprocess.run(["umount", closed], check=True)


def test_what_a_killed_process_has_left_half_written_is_swept_away(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from catae.system import files\n"
        "files.sync = lambda path: os.kill(os.getpid(), 9)\n"
        "files.write_bytes(Path('deep/a.png'), b'half')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == -9
    (tmp_path / ".mine").write_text("")
    assert [path.name.split("-")[-1] for path in (tmp_path / "deep").iterdir()] == ["a.png"]
    files.sweep(tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []
    assert (tmp_path / ".mine").exists()


def test_a_folder_is_kept_to_one_process_and_then_free_again(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(BlockingIOError), files.locked(tmp_path, wait=False):
        pass
    with files.locked(tmp_path, wait=False):
        assert tmp_path.is_dir()


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    for content in (b'{"a":', b"\xff\xfe", b"[" * 100_000, b""):
        (tmp_path / "torn.json").write_bytes(content)
        with pytest.raises(UserError, match=r"torn\.json is not a whole JSON file"):
            files.read_json(tmp_path / "torn.json")
    with pytest.raises(UserError, match=r"gone\.json can't be read: No such file"):
        files.read_json(tmp_path / "gone.json")
