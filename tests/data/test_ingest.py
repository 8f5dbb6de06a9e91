import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catae.data import ingest, sources, synthetic
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.system import files


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return str(path)


def cats(count: int, size: int = 32) -> dict[str, bytes]:
    return {f"{index}.png": encoded(synthetic.draw(index, 0, size)) for index in range(count)}


def test_undecodable_files_are_skipped_and_reported(tmp_path: Path) -> None:
    files = cats(3) | {"bad.jpg": b"oops", "empty.png": b"", "notes.txt": b"hello", "odd.jpg": cats(4)["3.png"]}
    image_set, report = ingest.read(archive(tmp_path / "a.zip", files), tmp_path / "cache", 16)
    assert image_set.names == ("0.png", "1.png", "2.png", "odd.jpg")
    assert report.rejects == [
        {"name": "bad.jpg", "reason": "not an image in a known format"},
        {"name": "empty.png", "reason": "the file is empty"},
    ]
    assert report.notes == [{"name": "odd.jpg", "note": "a PNG with the extension .jpg"}]
    assert report.passed_over == ["notes.txt"]
    assert (report.files, report.pictures, report.distinct) == (7, 4, 4)
    assert report.original_sizes == {"32x32": 4}


def test_identical_pixels_are_duplicates_in_any_format(tmp_path: Path) -> None:
    image = synthetic.draw(0, 0, 32)
    files = cats(20) | {"again.bmp": encoded(image, "BMP"), "again.webp": encoded(image, "WEBP", lossless=True)}
    image_set, report = ingest.read(archive(tmp_path / "a.zip", files), tmp_path / "cache", 32)
    assert (report.pictures, report.distinct, report.group_count) == (22, 20, 1)
    assert report.groups == [["0.png", "again.bmp", "again.webp"]]
    assert len(set(image_set.keys)) == 20


def test_processes_decode_in_order(tmp_path: Path) -> None:
    image_set, report = ingest.read("drawn:700", tmp_path, 16)
    assert report.pictures == 700
    for position in (0, 255, 256, 500, 699):
        listing = sources.entries(f"drawn:{position + 1}", 16)
        expected = np.asarray(Image.open(io.BytesIO(list(listing)[-1].read())))
        assert np.array_equal(image_set.take([position])[0], expected)
        assert image_set.names[position] == f"drawn/{position + 1:06}.png"


def test_what_libtiff_prints_is_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = bytearray(encoded(synthetic.draw(0), "TIFF", compression="tiff_lzw"))
    damaged[30:60] = bytes(range(30))
    _, report = ingest.read(archive(tmp_path / "a.zip", cats(3) | {"cat.tif": bytes(damaged)}), tmp_path / "cache", 16)
    assert [reject["name"] for reject in report.rejects] == ["cat.tif"]
    assert "its compressed data is damaged; the decoder reports: " in report.rejects[0]["reason"]
    assert "code" in report.rejects[0]["reason"].rpartition("reports: ")[2]
    assert "code" not in capfd.readouterr().err


def test_unguarded_script_can_read(tmp_path: Path) -> None:
    """With the standard library, worker processes would run the script again and fail."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom catae.data import ingest\n"
        "images = ingest.read('drawn:400', Path('cache'), 16)[0]\n"
        "print(len(images))\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stdout) == (0, "400\n"), ran.stderr


def test_set_is_cached_until_the_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cats"
    folder.mkdir()
    for name, data in cats(5).items():
        (folder / name).write_bytes(data)
    builds = []
    build = ingest._build
    monkeypatch.setattr(ingest, "_build", lambda *arguments: (builds.append(arguments), build(*arguments)))

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
def test_damaged_set_is_read_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    image_set, _ = ingest.read("drawn:9", tmp_path, 16)
    expected = image_set.take(range(9))
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
    assert np.array_equal(again.take(range(9)), expected)
    assert "reading the images again" in caplog.text


def test_concurrent_reads_of_one_source_share_a_set(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from catae.data import ingest\n"
        "images, report = ingest.read('drawn:300', Path('cache'), 16)\n"
        "print(images.path, images.digest, report.pictures)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=300)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_source_that_changes_while_read_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(archive(tmp_path / "a.zip", cats(5)))
    build = ingest._build

    def build_and_change(*arguments: object) -> None:
        build(*arguments)  # type: ignore[arg-type]
        archive(path, cats(6))

    monkeypatch.setattr(ingest, "_build", build_and_change)
    first, _ = ingest.read(str(path), tmp_path / "cache", 16)
    assert len(first) == 5
    assert "changed while it was read" in caplog.text
    monkeypatch.setattr(ingest, "_build", build)
    assert len(ingest.read(str(path), tmp_path / "cache", 16)[0]) == 6


def test_failed_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in [
        (str(tmp_path / "empty"), "it is empty"),
        (archive(tmp_path / "t.zip", {"a.txt": b"x"}), "it has 1 file, such as a.txt, but no images"),
        (
            archive(tmp_path / "b.zip", {"a.png": b"x", "b.png": b""}),
            "none of its 2 images can be decoded, first a.png: not an image",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            ingest.read(source, tmp_path / "cache", 16)
    assert list((tmp_path / "cache").iterdir()) == []


def test_partial_sets_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / ".reading-dead").mkdir(parents=True)
    (cache / ".reading-dead/pixels.u8").write_bytes(bytes(1000))
    (cache / ".reading-alive").mkdir()
    with files.locked(cache / ".reading-alive"):
        ingest.read("drawn:5", cache, 16)
    assert sorted(path.name for path in cache.glob(".reading-*")) == [".reading-alive"]


def test_disk_space_is_checked_before_reading(tiny_disk: Path) -> None:
    with pytest.raises(
        UserError, match=r"has [34]\.\d MB free, but 12\.4 MB are needed; free some space, or choose another"
    ):
        ingest.read("drawn:1000", tiny_disk, 64)
    assert list(tiny_disk.iterdir()) == []


def test_rejects_fail_if_configured_or_more_than_half(tmp_path: Path) -> None:
    some = archive(tmp_path / "some.zip", cats(3) | {"bad.jpg": b"oops"})
    most = archive(tmp_path / "most.zip", cats(1) | {"bad.jpg": b"oops", "worse.jpg": b""})
    assert ingest.read(some, tmp_path / "cache", 16)[1].pictures == 3
    with pytest.raises(
        UserError,
        match=r"1 of 4 images cannot be decoded, first bad\.jpg: not an image.*; remove them, or set CATAE_ON_REJECT",
    ):
        ingest.read(some, tmp_path / "cache", 16, "fail")
    with pytest.raises(UserError, match=r"2 of 3 images cannot be decoded, first bad\.jpg: .*more than half"):
        ingest.read(most, tmp_path / "cache", 16)


def test_unsupported_images_count_as_skipped_and_other_files_do_not(tmp_path: Path) -> None:
    others = dict.fromkeys(("README.pdf", "labels.csv.gz", "clip.mpg", "notes.txt"), b"x")
    some = archive(tmp_path / "some.zip", cats(3) | others | {"a.svg": b"<svg/>", "b.nef": b"II*"})
    report = ingest.read(some, tmp_path / "cache", 16)[1]
    assert (report.files, report.pictures, report.rejects) == (9, 3, [])
    assert report.unsupported == [
        {"name": "a.svg", "reason": "a vector graphic: convert it to JPEG or PNG"},
        {"name": "b.nef", "reason": "a camera's raw file: convert it to JPEG or PNG"},
    ]
    assert sorted(report.passed_over) == sorted(others)
    assert ingest.describe_skipped(report).endswith(
        "some.zip: skipped 2 of 5 images: 1 (a vector graphic: convert it to JPEG or PNG), "
        "1 (a camera's raw file: convert it to JPEG or PNG)"
    )
    with pytest.raises(UserError, match=r"2 of 5 images cannot be decoded, first a\.svg: a vector graphic"):
        ingest.read(some, tmp_path / "cache", 16, "fail")
    most = archive(tmp_path / "most.zip", cats(2) | others | {f"{n}.svg": b"<svg/>" for n in range(3)})
    with pytest.raises(UserError, match=r"3 of 5 images cannot be decoded, first 0\.svg: .*more than half"):
        ingest.read(most, tmp_path / "cache", 16)
    fine = archive(tmp_path / "fine.zip", cats(2) | others)
    assert ingest.describe_skipped(ingest.read(fine, tmp_path / "cache", 16, "fail")[1]) == ""


def test_a_source_without_readable_images_still_has_a_report(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zip", {"a.svg": b"<svg/>", "b.svg": b"<svg/>", "c.png": b"oops", "d.txt": b""})
    images, report = ingest.examine(source, tmp_path / "cache", 16)
    assert images is None
    assert (report.files, len(report.unsupported), len(report.rejects), report.passed_over) == (4, 2, 1, ["d.txt"])
    with pytest.raises(UserError, match=r"none of its 3 images can be decoded, first a\.svg"):
        ingest.check(report, "skip")


def test_a_changed_or_missing_target_of_a_link_is_noticed(tmp_path: Path) -> None:
    folder, target = tmp_path / "cats", tmp_path / "target.png"
    folder.mkdir()
    for name, data in cats(3).items():
        (folder / name).write_bytes(data)
    target.write_bytes(cats(4)["3.png"])
    (folder / "link.png").symlink_to(target)
    first = ingest.read(str(folder), tmp_path / "cache", 16)[0].digest
    target.write_bytes(cats(9)["8.png"])
    assert ingest.read(str(folder), tmp_path / "cache", 16)[0].digest != first
    target.unlink()
    report = ingest.read(str(folder), tmp_path / "cache", 16)[1]
    assert report.rejects == [{"name": "link.png", "reason": "cannot be read: No such file or directory"}]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "bz2.zip"])
def test_memory_is_bounded_by_bytes_not_by_files(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files together have 63 MB, in half as many files as may be pending."""
    monkeypatch.setattr(ingest, "MAX_PENDING_BYTES", 2**23)  # the real limits would take an archive of a GB
    monkeypatch.setattr(ingest, "CHUNK_BYTES", 2**20)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    image = encoded(Image.fromarray(noise), "PNG", compress_level=0)  # 0.5 MB
    names, path = [f"{number}.png" for number in range(130)], tmp_path / f"cats.{kind}"
    if kind == "bz2.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2, compresslevel=1) as opened:
            for name in names:
                opened.writestr(name, image)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(image)
                tar.addfile(member, io.BytesIO(image))
    tracemalloc.start()
    try:
        entries = ingest._images(sources.entries(str(path)), ingest.DataReport(str(path), 16))
        assert sum(1 for _ in ingest._decode(entries, 16)) == len(names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**24


def test_large_images_are_pending_in_smaller_chunks() -> None:
    entries = [sources.Entry(f"{number}.png") for number in range(100)]
    sizes = [len(chunk) for chunk, _ in ingest._chunks(iter(entries), 512)]
    assert sizes == [11] * 9 + [1]  # 12 images of 512x512 pixels have 9 MB
    assert [len(chunk) for chunk, _ in ingest._chunks(iter(entries), 64)] == [64, 36]


def test_members_with_one_name_get_unique_names(tmp_path: Path) -> None:
    red, blue = cats(2).values()
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as opened:
        opened.writestr("cat.png", red)
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("cat.png", blue)
    image_set, _ = ingest.read(str(tmp_path / "twice.zip"), tmp_path / "cache", 16)
    assert image_set.names == ("cat.png", "cat.png#2")


def test_cache_can_be_moved(tmp_path: Path) -> None:
    image_set, _ = ingest.read("drawn:5", tmp_path / "cache", 16)
    shutil.move(tmp_path / "cache", tmp_path / "moved")
    assert len(ImageStore(tmp_path / "moved" / image_set.path.name)) == 5


@pytest.mark.cats
def test_real_cats_are_read_and_duplicates_counted(cats_zip: Path, cats_set: ImageStore) -> None:
    _, report = ingest.read(str(cats_zip), cats_set.path.parent)
    assert (report.pictures, report.distinct, report.rejects) == (15_747, 9_303, [])
    assert 0.70 < report.plain_split_leak < 0.78
