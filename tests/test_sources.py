import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from catae import sources
from catae.errors import UserError

FILES = {"b.png": b"two", "a/c.png": b"three", "a/a.jpg": b"one"}


def folder(path: Path) -> Path:
    for name, data in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("a")
        for name, data in FILES.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def content(source: Path | str) -> list[tuple[str, bytes]]:
    return [(entry.name, entry.read()) for entry in sources.entries(str(source))]


def test_a_folder_a_zip_and_tars_give_the_same_files(tmp_path: Path) -> None:
    expected = sorted(FILES.items())
    assert sorted(content(folder(tmp_path / "cats"))) == expected
    assert content(zipped(tmp_path / "cats.zip")) == expected
    for name, mode in [
        ("c.tar", "w"),
        ("c.tar.gz", "w:gz"),
        ("c.tgz", "w:gz"),
        ("c.tar.bz2", "w:bz2"),
        ("c.tar.xz", "w:xz"),
    ]:
        assert sorted(content(tarred(tmp_path / name, mode))) == expected


def test_the_order_is_that_of_the_names_and_not_of_the_file_system(tmp_path: Path) -> None:
    names = [name for name, _ in content(folder(tmp_path / "cats"))]
    assert names == ["b.png", "a/a.jpg", "a/c.png"]


def test_a_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(tmp_path / "cats")
    assert len(content("~/cats")) == 3
    assert sources.label("~/cats/") == "cats"


def test_drawn_cats_have_names_that_sort_and_fewer_are_the_first_of_more() -> None:
    assert content("drawn:3:7") == content("drawn:5:7")[:3]
    assert content("drawn:3:7") != content("drawn:3:8")
    assert [name for name, _ in content("drawn:2")] == ["drawn/000001.png", "drawn/000002.png"]


@pytest.mark.parametrize("source", ["drawn:x", "drawn:0", "drawn:1:2:3", "drawn:-1", "drawn:1:", "drawn:²"])
def test_a_wrong_count_or_seed_of_drawn_cats_is_told(source: str) -> None:
    with pytest.raises(UserError, match="like drawn:500"):
        sources.entries(source)


def test_what_is_no_source_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an archive")
    (tmp_path / "torn.zip").write_bytes(zipped(tmp_path / "whole.zip").read_bytes()[:40])
    for name, said in [
        ("nowhere", "No such file"),
        ("notes.txt", "neither a folder nor"),
        ("torn.zip", "neither a folder nor"),
    ]:
        with pytest.raises(UserError, match=said) as error:
            sources.entries(str(tmp_path / name))
        assert name in str(error.value)


def test_a_damaged_archive_is_told_in_one_line(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "whole.tar.gz", "w:gz").read_bytes()
    (tmp_path / "torn.tar.gz").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(UserError, match=r"torn\.tar\.gz is damaged"):
        content(tmp_path / "torn.tar.gz")


def test_hidden_files_and_other_kinds_are_not_meant_to_be_pictures() -> None:
    meant = ["1.jpg", "a/2.JPEG", "x.webp", "../up.png"]
    others = ["notes.txt", ".hidden.jpg", "a/.cache/1.jpg", "__MACOSX/1.jpg", "Thumbs.db", "noending"]
    assert [name for name in meant + others if sources.is_picture_name(name)] == meant
