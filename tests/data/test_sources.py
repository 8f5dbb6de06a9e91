import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from catae.data import archives, sources
from catae.errors import DecodeError, UserError

UNSAFE = ("/etc/abs.png", "../up.png", "a/../../b.png", "..\\dos.png", "C:/drive.png")
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
    return [(entry.name, entry.read()) for entry in sources.entries(str(source)) if not entry.refusal]


def refused(source: Path | str) -> dict[str, str]:
    """Return why each file is refused or cannot be read, by name."""
    reasons = {}
    for entry in sources.entries(str(source)):
        try:
            reasons[entry.name] = entry.refusal
            entry.read()
        except DecodeError as error:
            reasons[entry.name] = str(error)
    return reasons


def test_folder_zip_and_tar_list_the_same_files(tmp_path: Path) -> None:
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


def test_folder_with_one_archive_is_that_archive(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "README.md").write_text("cats")
    (data / ".DS_Store").write_text("litter")
    zipped(data / "cats.zip")
    assert content(data) == sorted(FILES.items())
    before = sources.fingerprint(str(data))
    (data / "cats.zip").write_bytes((data / "cats.zip").read_bytes()[:-30])
    assert sources.fingerprint(str(data)) != before
    with pytest.raises(UserError, match=r"data/cats\.zip is not a folder or a complete zip or tar archive"):
        sources.entries(str(data))


@pytest.mark.parametrize("other", ["tom.png", "more.tar", "folder/tom.png"])
def test_folder_with_more_than_one_archive_is_a_folder(tmp_path: Path, other: str) -> None:
    zipped(tmp_path / "cats.zip")
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_bytes(b"tom")
    assert "an archive inside the source" in refused(tmp_path)["cats.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_are_read_with_any_compression_and_in_other_processes(tmp_path: Path, method: int) -> None:
    long = "n" * 700 + ".png"
    with zipfile.ZipFile(tmp_path / "cats.zip", "w", method) as archive:
        for name, data in (FILES | {long: b"long" * 9}).items():
            archive.writestr(name, data)
    expected = sorted((FILES | {long: b"long" * 9}).items())
    assert content(tmp_path / "cats.zip") == expected
    sent = pickle.loads(pickle.dumps(list(sources.entries(str(tmp_path / "cats.zip")))))
    assert [(entry.name, entry.read()) for entry in sent] == expected


def test_damaged_bzip2_member_does_not_affect_others(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cats.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("bad.png", b"bad" * 100)
        archive.writestr("good.png", b"good")
    data = bytearray((tmp_path / "cats.zip").read_bytes())
    data[data.index(b"BZh") + 12] ^= 0xFF
    (tmp_path / "cats.zip").write_bytes(data)
    reasons = refused(tmp_path / "cats.zip")
    assert reasons["bad.png"].startswith("cannot be unpacked: ")
    assert reasons["good.png"] == ""


def test_files_are_sorted_by_name(tmp_path: Path) -> None:
    names = [name for name, _ in content(folder(tmp_path / "cats"))]
    assert names == ["b.png", "a/a.jpg", "a/c.png"]


def test_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(tmp_path / "cats")
    assert len(content("~/cats")) == 3
    assert sources.label("~/cats/") == "cats"


def test_fewer_synthetic_cats_are_the_first_of_more() -> None:
    assert content("drawn:3:7") == content("drawn:5:7")[:3]
    assert content("drawn:3:7") != content("drawn:3:8")
    assert [name for name, _ in content("drawn:2")] == ["drawn/000001.png", "drawn/000002.png"]


@pytest.mark.parametrize("source", ["drawn:x", "drawn:0", "drawn:1:2:3", "drawn:-1", "drawn:1:", "drawn:²"])
def test_invalid_synthetic_count_or_seed_is_an_error(source: str) -> None:
    with pytest.raises(UserError, match="like drawn:500"):
        sources.entries(source)


def test_invalid_source_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an archive")
    (tmp_path / "torn.zip").write_bytes(zipped(tmp_path / "whole.zip").read_bytes()[:40])
    for name, message in [
        ("nowhere", "No such file"),
        ("notes.txt", "not a folder or"),
        ("torn.zip", "not a folder or"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            sources.entries(str(tmp_path / name))
        assert name in str(error.value)


def test_damaged_archive_is_an_error(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "whole.tar.gz", "w:gz").read_bytes()
    (tmp_path / "torn.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"torn\.tar\.gz is damaged"):
        content(tmp_path / "torn.tar.gz")


def test_image_names_exclude_hidden_and_other_files() -> None:
    images = ["1.jpg", "a/2.JPEG", "x.webp", "../up.png"]
    others = ["notes.txt", ".hidden.jpg", "a/.cache/1.jpg", "__MACOSX/1.jpg", "Thumbs.db", "noextension"]
    assert [name for name in images + others if sources.is_image_name(name)] == images


def test_links_and_pipes_in_a_folder_are_handled(tmp_path: Path) -> None:
    cats, other = tmp_path / "cats", tmp_path / "other"
    for path in (cats / "inside", other):
        path.mkdir(parents=True)
    (other / "far.png").write_bytes(b"far")
    (cats / "gone.png").symlink_to("nowhere")
    (cats / "linked").symlink_to(other)  # a folder elsewhere: followed
    (cats / "twice").symlink_to(other)
    (cats / "inside" / "loop").symlink_to(cats)
    os.mkfifo(cats / "pipe.png")
    (cats / "nested.zip").write_bytes(b"PK")
    assert refused(cats) == {
        "gone.png": "cannot be read: No such file or directory",
        "linked/far.png": "",
        "twice": "a link to a folder that is already read",
        "inside/loop": "a link to a folder that is already read",
        "pipe.png": "not a regular file",
        "nested.zip": "an archive inside the source; use it as a source of its own",
    }


def test_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    with Path(os.fsdecode(os.fsencode(tmp_path / "cats") + b"/caf\xe9.png")).open("wb") as file:
        file.write(b"data")
    assert content(tmp_path / "cats") == [("caf\\xe9.png", b"data")]


def test_permission_errors_are_reported(tmp_path: Path) -> None:
    """Read as an unprivileged user, because permissions do not apply to root."""
    (tmp_path / "cats" / "shut").mkdir(parents=True)
    (tmp_path / "cats" / "a.png").write_bytes(b"a")
    (tmp_path / "cats" / "a.png").chmod(0)
    (tmp_path / "cats" / "shut").chmod(0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        if os.getuid() == 0:
            for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
                folder.chmod(folder.stat().st_mode | 0o055)
            os.setuid(65534)
        with os.fdopen(write, "w") as out:
            json.dump(refused(tmp_path / "cats"), out)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as output:
        reasons = json.load(output)
    os.waitpid(child, 0)
    (tmp_path / "cats" / "shut").chmod(0o700)
    assert reasons == {
        "a.png": "cannot be read: Permission denied",
        "shut": "cannot be listed: Permission denied",
    }


def test_file_deleted_after_listing_is_reported(tmp_path: Path) -> None:
    listed = list(sources.entries(str(folder(tmp_path / "cats"))))
    (tmp_path / "cats" / "b.png").unlink()
    with pytest.raises(DecodeError, match="cannot be read: No such file"):
        next(entry for entry in listed if entry.name == "b.png").read()


def test_huge_file_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    with (tmp_path / "cats" / "huge.png").open("wb") as file:
        file.truncate(300 * 2**20)
    assert refused(tmp_path / "cats") == {"huge.png": "300 MB exceed the limit of 256 MB"}


def test_unsafe_zip_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*UNSAFE, "inner.zip", "ok.png"):
            archive.writestr(name, b"data")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("torn.png", b"data" * 100)
    data = bytearray((tmp_path / "bad.zip").read_bytes())
    data[data.index(b"torn.png") + 12] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(data)
    reasons = refused(tmp_path / "bad.zip")
    assert reasons.pop("torn.png").startswith("cannot be unpacked: ")
    assert reasons == {
        **dict.fromkeys(UNSAFE, "its path leads out of the archive"),
        "inner.zip": "an archive inside the source; use it as a source of its own",
        "link.png": "a link",
        "ok.png": "",
    }


def test_member_without_a_name_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "plain.zip").read_bytes())
    start = data.rindex(b"PK\x01\x02")
    length = int.from_bytes(data[start + 28 : start + 30], "little")
    data[start + 28 : start + 30] = b"\0\0"  # found by fuzzing: the name's length, now counted as a comment
    data[start + 32 : start + 34] = length.to_bytes(2, "little")
    (tmp_path / "nameless.zip").write_bytes(data)
    assert refused(tmp_path / "nameless.zip")["(no name)"] == "without a name"


def test_zip_of_an_unknown_version_is_an_error(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "plain.zip").read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 206  # found by fuzzing
    (tmp_path / "newer.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"newer\.zip is damaged \(zip file version 20\.6\); download or copy it again"):
        content(tmp_path / "newer.zip")


def test_member_larger_than_its_archive_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "plain.zip").read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + 20 : start + 24] = (2**32 - 2).to_bytes(4, "little")
    (tmp_path / "lying.zip").write_bytes(data)
    assert "its declared size exceeds the archive's" in refused(tmp_path / "lying.zip").values()


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    # Python's zipfile cannot write encrypted members, but a reader checks this flag first.
    data = bytearray(zipped(tmp_path / "plain.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            data[start + offset] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    assert set(refused(tmp_path / "secret.zip").values()) == {"encrypted"}


def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as archive:
        for name, kind in {
            "soft.png": tarfile.SYMTYPE,
            "hard.png": tarfile.LNKTYPE,
            "device.png": tarfile.CHRTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("../up.png")
        archive.addfile(member, io.BytesIO(b""))
    assert refused(tmp_path / "bad.tar.gz") == {
        "soft.png": "a link",
        "hard.png": "a hard link, which cannot be followed in a compressed archive; unpack it and use the folder",
        "device.png": "not a regular file",
        "../up.png": "its path leads out of the archive",
    }


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_decompression_bomb_is_an_error(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FLOOR", 2**24)  # the real limit of 1 GB takes 10 s to write
    path = tmp_path / f"bomb.{kind}"
    zeros = bytes(2 * 2**20)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(11):
                archive.writestr(f"{number}.png", zeros)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for number in range(11):
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(zeros)
                tar.addfile(member, io.BytesIO(zeros))
    with pytest.raises(UserError, match="unpacks to more than 100 times its size"):
        list(sources.entries(str(path)))


def test_damaged_central_directory_is_an_error(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "whole.zip").read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start : start + 4] = b"XXXX"
    (tmp_path / "bad.zip").write_bytes(data)
    with pytest.raises(
        UserError, match=r"bad\.zip is damaged \(Bad magic number for central directory\); download or copy it again"
    ):
        content(tmp_path / "bad.zip")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_million_members_take_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"million.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(1_000_000):
                archive.writestr(f"{number}.txt", b"")
    else:
        with tarfile.open(path, "w") as tar:
            for number in range(1_000_000):
                tar.addfile(tarfile.TarInfo(f"{number}.txt"))
                tar.members.clear()  # type: ignore[attr-defined]
    code = (
        f"from catae.data import sources; print(sum(1 for _ in sources.entries({str(path)!r})))\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    count, peak_kb = map(int, ran.stdout.split())
    assert count == 1_000_000
    assert peak_kb < 1_200_000


def test_fingerprint_changes_with_the_source(tmp_path: Path) -> None:
    cats = folder(tmp_path / "cats")
    seen = {sources.fingerprint(str(cats))}
    assert sources.fingerprint(str(cats)) in seen
    (cats / "new.png").write_bytes(b"x")
    seen.add(sources.fingerprint(str(cats)))
    (cats / "new.png").write_bytes(b"xy")
    seen.add(sources.fingerprint(str(cats)))
    (cats / "new.png").rename(cats / "newer.png")
    seen.add(sources.fingerprint(str(cats)))
    seen |= {sources.fingerprint(source) for source in ("drawn:5", "drawn:6", "drawn:5:1")}
    assert len(seen) == 7
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        sources.fingerprint(str(tmp_path / "nowhere"))


def test_fingerprint_follows_links_to_their_targets(tmp_path: Path) -> None:
    cats, target = tmp_path / "cats", tmp_path / "elsewhere.png"
    cats.mkdir()
    target.write_bytes(b"cat")
    (cats / "cat.png").symlink_to(target)
    before = sources.fingerprint(str(cats))
    target.write_bytes(b"another cat")
    changed = sources.fingerprint(str(cats))
    target.unlink()
    gone = sources.fingerprint(str(cats))
    assert len({before, changed, gone}) == 3


# What is an image


def test_endings_tell_images_unsupported_formats_and_other_files_apart(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    convert = "convert it to JPEG or PNG"
    expected = {
        "cat.jpg": ("image", ""),
        "cat.PSD": ("image", ""),
        "backup.tar.gz": ("image", "an archive inside the source; use it as a source of its own"),
        "cat.svg": ("unsupported", f"a vector graphic: {convert}"),
        "cat.eps": ("unsupported", f"a vector graphic: {convert}"),
        "cat.CR2": ("unsupported", f"a camera's raw file: {convert}"),
        "cat.nef": ("unsupported", f"a camera's raw file: {convert}"),
        "cat.exr": ("unsupported", f"not read by Pillow: {convert}"),
        "cat.jpg.gz": ("unsupported", "compressed: unpack it"),
        **dict.fromkeys(
            ("README.pdf", "labels.h5", "clip.mpg", "labels.csv.gz", "paper.ps", "notes.txt", ".cat.heic"),
            ("other", ""),
        ),
    }
    for name in expected:
        (tmp_path / "cats" / name).write_bytes(b"bytes")
    entries = sources.entries(str(tmp_path / "cats"))
    assert {entry.name: (entry.kind, entry.refusal) for entry in entries} == expected


FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "QOI")


@pytest.mark.parametrize("kind", ["folder", "zip", "bz2.zip", "tar", "tar.gz"])
def test_files_without_a_known_ending_are_recognized_by_their_first_bytes(tmp_path: Path, kind: str) -> None:
    image = Image.new("RGB", (20, 20), "red")
    files = {}
    for number, saved in enumerate(FORMATS):
        image.save(data := io.BytesIO(), saved)
        files[("cat{}", "cat{}.jpg?w=200", "cat.{}")[number % 3].format(number)] = data.getvalue()
    heic = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"
    others = {"empty": b"", "words": b"BM is not a bitmap here", "short": b"\xff", "notes.txt": files["cat0"]}
    source = packed(tmp_path, kind, files | others | {"phone": heic})
    found = {entry.name: entry for entry in sources.entries(str(source))}
    assert {name: found[name].kind for name in (*files, *others)} == {
        **dict.fromkeys(files, "image"),
        **dict.fromkeys(others, "other"),
    }
    assert found["phone"].kind == ("image" if ".heic" in sources.EXTENSIONS else "unsupported")
    assert {name: found[name].read() for name in files} == files


def packed(folder: Path, kind: str, files: dict[str, bytes]) -> Path:
    """Write files to a folder or an archive, and return it."""
    path = folder / f"cats.{kind}"
    if kind == "folder":
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    elif kind.endswith("zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2 if kind == "bz2.zip" else zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def test_lone_compressed_table_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"cat,1\n"))
    assert [entry.kind for entry in sources.entries(str(tmp_path))] == ["other"]


def test_folder_of_files_without_endings_and_an_archive_is_a_folder(tmp_path: Path) -> None:
    zipped(tmp_path / "labels.zip")
    (tmp_path / "cat").write_bytes(b"\xff\xd8\xff\xe0")
    assert sorted(entry.name for entry in sources.entries(str(tmp_path))) == ["cat", "labels.zip"]


def test_unreadable_file_of_an_unknown_kind_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "cat").symlink_to("nowhere")
    assert refused(tmp_path / "cats") == {"cat": "cannot be read: No such file or directory"}


# Hard links, and memory


def linked_tar(path: Path, mode: str) -> Path:
    """Write a tar with hard links: to an earlier member, a replaced one, a link, a later one, and out of the tar."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in (
            ("./a.png", b"first a"),
            ("link.png", "a.png"),
            ("a.png", b"second a"),
            ("again.png", "./a.png"),
            ("chain.png", "link.png"),
            ("early.png", "z.png"),
            ("passwd.png", "/etc/passwd"),
            ("z.png", b"last"),
        ):
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.LNKTYPE, data
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def test_hard_link_in_an_uncompressed_tar_has_the_bytes_of_the_earlier_member(tmp_path: Path) -> None:
    path = linked_tar(tmp_path / "cats.tar", "w")
    assert dict(content(path)) == {
        "./a.png": b"first a",
        "link.png": b"first a",
        "a.png": b"second a",
        "again.png": b"second a",
        "chain.png": b"first a",
        "z.png": b"last",
    }
    reasons = refused(path)
    assert reasons["early.png"] == reasons["passwd.png"] == "a hard link to a file that does not come before it"


def test_hard_link_in_a_compressed_tar_is_refused_in_plain_words(tmp_path: Path) -> None:
    reasons = refused(linked_tar(tmp_path / "cats.tar.gz", "w:gz"))
    assert "unpack it and use the folder" in reasons["link.png"]
    assert reasons["z.png"] == ""


def test_uncompressed_tar_is_read_in_place_and_in_other_processes(tmp_path: Path) -> None:
    listed = list(sources.entries(str(tarred(tmp_path / "cats.tar", "w"))))
    assert [entry.held for entry in listed] == [0, 0, 0]
    assert {entry.name: entry.read() for entry in pickle.loads(pickle.dumps(listed))} == FILES
    os.truncate(tmp_path / "cats.tar", 513)
    with pytest.raises(DecodeError, match="the archive ends before it"):
        listed[0].read()
