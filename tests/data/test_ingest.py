import io
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catae.data import ingest, sources, synthetic
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.system import files


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return str(path)


def cats(count: int, size: int = 32) -> dict[str, bytes]:
    return {f"{index}.png": encoded(synthetic.draw(index, 0, size)) for index in range(count)}


def test_a_file_that_cant_be_decoded_is_reported_by_name_and_left_out(tmp_path: Path) -> None:
    files = cats(3) | {"bad.jpg": b"oops", "empty.png": b"", "notes.txt": b"hello", "odd.jpg": cats(4)["3.png"]}
    image_set, report = ingest.read(archive(tmp_path / "a.zip", files), tmp_path / "cache", 16)
    assert image_set.names == ("0.png", "1.png", "2.png", "odd.jpg")
    assert report.rejects == [
        {"name": "bad.jpg", "reason": "it is no picture of a known format"},
        {"name": "empty.png", "reason": "the file is empty"},
    ]
    assert report.notes == [{"name": "odd.jpg", "note": "it is a PNG, though its name ends in .jpg"}]
    assert report.passed_over == ["notes.txt"]
    assert (report.files, report.pictures, report.distinct) == (7, 4, 4)
    assert report.original_sizes == {"32x32": 4}


def test_identical_pixels_are_copies_however_they_are_encoded(tmp_path: Path) -> None:
    picture = synthetic.draw(0, 0, 32)
    files = cats(20) | {"again.bmp": encoded(picture, "BMP"), "again.webp": encoded(picture, "WEBP", lossless=True)}
    image_set, report = ingest.read(archive(tmp_path / "a.zip", files), tmp_path / "cache", 32)
    assert (report.pictures, report.distinct, report.group_count) == (22, 20, 1)
    assert report.groups == [["0.png", "again.bmp", "again.webp"]]
    assert len(set(image_set.keys)) == 20


def test_many_files_are_decoded_by_several_processes_in_their_order(tmp_path: Path) -> None:
    image_set, report = ingest.read("drawn:700", tmp_path, 16)
    assert report.pictures == 700
    for position in (0, 255, 256, 500, 699):
        alone = sources.entries(f"drawn:{position + 1}", 16)
        expected = np.asarray(Image.open(io.BytesIO(list(alone)[-1].read())))
        assert np.array_equal(image_set.take([position])[0], expected)
        assert image_set.names[position] == f"drawn/{position + 1:06}.png"


def test_an_unguarded_script_can_read(tmp_path: Path) -> None:
    """The standard library's processes would run the script again, and fail."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom catae.data import ingest\n"
        "images = ingest.read('drawn:400', Path('cache'), 16)[0]\n"
        "print(len(images))\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "400\n"), ran.stderr


def test_a_set_is_read_once_and_read_anew_when_the_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cats"
    folder.mkdir()
    for name, data in cats(5).items():
        (folder / name).write_bytes(data)
    builds = []
    build = ingest._build
    monkeypatch.setattr(ingest, "_build", lambda *given: (builds.append(given), build(*given)))

    first, _ = ingest.read(str(folder), tmp_path / "cache", 16)
    again, report = ingest.read(str(folder), tmp_path / "cache", 16)
    assert len(builds) == 1
    assert (first.path, first.digest, report.pictures) == (again.path, again.digest, 5)
    ingest.read(str(folder), tmp_path / "cache", 32)
    (folder / "new.png").write_bytes(cats(6)["5.png"])
    assert ingest.read(str(folder), tmp_path / "cache", 16)[1].pictures == 6
    (folder / "new.png").write_bytes(cats(7)["6.png"])
    assert ingest.read(str(folder), tmp_path / "cache", 16)[0].digest not in (first.digest, again.digest[:0])
    assert len(builds) == 4


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove the report", "remove the index"])
def test_a_torn_set_is_noticed_and_read_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    image_set, _ = ingest.read("drawn:9", tmp_path, 16)
    whole = image_set.take(range(9))
    path = image_set.path / "pixels.u8"
    if damage == "truncate":
        os.truncate(path, 100)
    elif damage == "flip":
        data = bytearray(path.read_bytes())
        data[3000] ^= 1
        path.write_bytes(data)
    else:
        (image_set.path / {"remove the report": "data.json", "remove the index": "index.json"}[damage]).unlink()
    caplog.set_level(logging.WARNING)
    again, _ = ingest.read("drawn:9", tmp_path, 16)
    assert np.array_equal(again.take(range(9)), whole)
    assert "reading the pictures anew" in caplog.text


def test_two_processes_that_read_the_same_at_the_same_time_dont_harm_each_other(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from catae.data import ingest\n"
        "images, report = ingest.read('drawn:300', Path('cache'), 16)\n"
        "print(images.path, images.digest, report.pictures)"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(said) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_source_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(archive(tmp_path / "a.zip", cats(5)))
    build = ingest._build

    def build_and_change(*given: object) -> None:
        build(*given)  # type: ignore[arg-type]
        archive(path, cats(6))

    monkeypatch.setattr(ingest, "_build", build_and_change)
    first, _ = ingest.read(str(path), tmp_path / "cache", 16)
    assert len(first) == 5
    assert "has changed while it was read" in caplog.text
    monkeypatch.setattr(ingest, "_build", build)
    assert len(ingest.read(str(path), tmp_path / "cache", 16)[0]) == 6


def test_a_failed_reading_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, said in [
        (str(tmp_path / "empty"), "it is empty"),
        (archive(tmp_path / "t.zip", {"a.txt": b"x"}), "none of its 1 files is a picture, a.txt for one"),
        (
            archive(tmp_path / "b.zip", {"a.png": b"x", "b.png": b""}),
            "none of its 2 pictures can be read; a.png, the first",
        ),
    ]:
        with pytest.raises(UserError, match=said):
            ingest.read(source, tmp_path / "cache", 16)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_reading_has_left_goes_with_the_next_one_and_a_living_one_stays(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / ".reading-dead").mkdir(parents=True)
    (cache / ".reading-dead/pixels.u8").write_bytes(bytes(1000))
    (cache / ".reading-alive").mkdir()
    with files.locked(cache / ".reading-alive"):
        ingest.read("drawn:5", cache, 16)
    assert sorted(path.name for path in cache.glob(".reading-*")) == [".reading-alive"]


def test_a_disk_with_too_little_room_for_the_pictures_is_told_before_they_are_read(tiny_disk: Path) -> None:
    with pytest.raises(UserError, match=r"has [34]\.\d MB free, and 12\.4 MB are needed; free some, or give another"):
        ingest.read("drawn:1000", tiny_disk, 64)
    assert list(tiny_disk.iterdir()) == []


def test_one_bad_file_is_an_error_if_the_user_says_so_and_most_of_them_always(tmp_path: Path) -> None:
    some = archive(tmp_path / "some.zip", cats(3) | {"bad.jpg": b"oops"})
    most = archive(tmp_path / "most.zip", cats(1) | {"bad.jpg": b"oops", "worse.jpg": b""})
    assert ingest.read(some, tmp_path / "cache", 16)[1].pictures == 3
    with pytest.raises(UserError, match=r"1 of 4 pictures can't be read, and CATAE_ON_REJECT is fail; bad\.jpg"):
        ingest.read(some, tmp_path / "cache", 16, "fail")
    with pytest.raises(UserError, match="2 of 3 pictures can't be read, more than half"):
        ingest.read(most, tmp_path / "cache", 16)


def test_two_members_of_one_name_are_two_pictures(tmp_path: Path) -> None:
    red, blue = cats(2).values()
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as opened:
        opened.writestr("cat.png", red)
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("cat.png", blue)
    image_set, _ = ingest.read(str(tmp_path / "twice.zip"), tmp_path / "cache", 16)
    assert image_set.names == ("cat.png", "cat.png#2")


def test_the_cache_can_be_moved(tmp_path: Path) -> None:
    image_set, _ = ingest.read("drawn:5", tmp_path / "cache", 16)
    shutil.move(tmp_path / "cache", tmp_path / "moved")
    assert len(ImageStore(tmp_path / "moved" / image_set.path.name)) == 5


@pytest.mark.cats
def test_every_real_cat_is_read_and_the_copies_among_them_are_counted(cats_zip: Path, cats_set: ImageStore) -> None:
    _, report = ingest.read(str(cats_zip), cats_set.path.parent)
    assert (report.pictures, report.distinct, report.rejects) == (15_747, 9_303, [])
    assert 0.70 < report.plain_split_leak < 0.78
