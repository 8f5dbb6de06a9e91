import subprocess
import sys
from pathlib import Path

import pytest

from catae.errors import UserError
from catae.system import files


def test_write_is_atomic_on_a_full_disk(tiny_disk: Path) -> None:
    path = tiny_disk / "new" / "a.json"
    files.write_json(path, {"a": "ä"})
    with pytest.raises(UserError, match=r"No space left on device \(9\.0 MB needed, \d\.\d MB free\)"):
        files.write_bytes(path, bytes(9_000_000))
    assert files.read_json(path) == {"a": "ä"}
    assert list(path.parent.iterdir()) == [path]


def test_check_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_can_keep_the_old_file(tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        with files.atomic_write(tmp_path / "new", before=tmp_path / "old") as file:
            file.write(content)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"new": b"3", "old": b"2"}


def test_read_only_disk_is_explained(tmp_path: Path) -> None:
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", read_only]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a disk here")
    try:
        with pytest.raises(
            UserError, match=r"cannot write .*a\.json: Read-only file system; choose another --output-dir"
        ):
            files.write_json(read_only / "a.json", {})
    finally:
        subprocess.run(["umount", read_only], check=True)


def test_partial_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from catae.system import files\n"
        "files.sync = lambda path: os.kill(os.getpid(), 9)\n"
        "files.write_bytes(Path('deep/a.png'), b'half')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == -9
    (tmp_path / ".mine").write_text("")
    assert [path.name.split("-")[-1] for path in (tmp_path / "deep").iterdir()] == ["a.png"]
    files.remove_partial(tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []
    assert (tmp_path / ".mine").exists()


def test_lock_is_exclusive_and_released(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(BlockingIOError), files.locked(tmp_path, wait=False):
        pass
    with files.locked(tmp_path, wait=False):
        assert tmp_path.is_dir()


def test_invalid_json_is_an_error(tmp_path: Path) -> None:
    for content in (b'{"a":', b"\xff\xfe", b"[" * 100_000, b""):
        (tmp_path / "torn.json").write_bytes(content)
        with pytest.raises(UserError, match=r"torn\.json is not valid JSON"):
            files.read_json(tmp_path / "torn.json")
    with pytest.raises(UserError, match=r"cannot read .*gone\.json: No such file"):
        files.read_json(tmp_path / "gone.json")
