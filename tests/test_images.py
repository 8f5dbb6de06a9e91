import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catae import images
from catae.errors import UserError
from catae.images import ImageSet, Unreadable

RED = (255, 0, 0)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


def colour_of(data: bytes) -> tuple[int, ...]:
    pixels = images.decode(data, 16)[0]
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    return tuple(int(value) for value in np.median(pixels.reshape(-1, 3), axis=0))


def test_a_picture_of_the_right_size_is_given_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(images.decode(encoded(Image.fromarray(noise)), 16)[0], noise)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.new("P", (16, 16), 5).convert("RGB").quantize(4)), None),
        (encoded(Image.new("RGB", (16, 16), RED).quantize(4)), RED),
        (encoded(Image.new("L", (16, 16), 100)), (100, 100, 100)),
        (encoded(Image.new("1", (16, 16), 1)), (255, 255, 255)),
        (encoded(Image.new("LA", (16, 16), (100, 255))), (100, 100, 100)),
        (encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF"), RED),
        (encoded(Image.fromarray(np.full((16, 16), 100 * 257, np.uint16))), (100, 100, 100)),
        (encoded(Image.fromarray(np.full((16, 16), 100 * 257, np.int32)), "TIFF"), (100, 100, 100)),
        (encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 0))), (255, 255, 255)),
        (encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 128))), (255, 127, 127)),
        (encoded(Image.new("RGB", (16, 16), RED), transparency=RED), (255, 255, 255)),
        (encoded(Image.new("RGB", (16, 16), RED), "WEBP", lossless=True), RED),
    ],
    ids=[
        "palette",
        "palette-red",
        "grey",
        "bits",
        "grey-alpha",
        "cmyk",
        "16-bit",
        "32-bit",
        "clear",
        "half",
        "key",
        "webp",
    ],
)
def test_every_mode_becomes_rgb_sensibly(data: bytes, expected: tuple[int, ...] | None) -> None:
    assert expected is None or colour_of(data) == expected
    assert len(colour_of(data)) == 3


def test_exif_orientation_is_honoured() -> None:
    picture = Image.new("RGB", (16, 16), "white")
    picture.paste("black", (0, 0, 16, 8))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the upper half is the right half
    pixels = images.decode(encoded(picture, exif=exif), 16)[0]
    assert pixels[:, 12].mean() < 20
    assert pixels[:, 3].mean() > 235


def test_other_sizes_are_centre_cropped_and_resized_with_antialiasing() -> None:
    wide = Image.new("RGB", (192, 64), RED)
    wide.paste("blue", (64, 0, 128, 64))
    assert colour_of(encoded(wide)) == (0, 0, 255)
    assert images.decode(encoded(wide), 16)[1:] == ("RGB", "192x64")
    # One-pixel stripes average to grey; picking every eighth pixel would give black or white.
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(images.decode(encoded(Image.fromarray(stripes)), 16)[0].mean() - 127) < 3


def test_what_is_no_picture_is_told_why() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    bomb = encoded(Image.new("1", (12_000, 12_000)))
    deep = encoded(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF")
    for data, reason in [
        (b"", "empty"),
        (b"just words", "no picture of a known format"),
        (whole[: len(whole) // 2], "can't be decoded: .*truncated"),
        (bomb, "can't be decoded: .*decompression bomb"),
        (deep, "floating-point"),
    ]:
        with pytest.raises(Unreadable, match=reason):
            images.decode(data, 16)


def archive(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return str(path)


def test_a_file_that_cant_be_decoded_is_reported_by_name_and_left_out(tmp_path: Path) -> None:
    red, blue = (encoded(Image.new("RGB", (20, 20), colour)) for colour in ("red", "blue"))
    source = archive(
        tmp_path / "a.zip",
        {"1.png": red, "2.png": blue, "3.png": red, "bad.jpg": b"oops", "empty.png": b"", "notes.txt": b"hello"},
    )
    image_set, report = images.read(source, tmp_path / "store", 16)

    assert image_set.names == ("1.png", "2.png", "3.png")
    assert [reject["name"] for reject in report.rejects] == ["bad.jpg", "empty.png"]
    assert report.passed_over == ["notes.txt"]
    assert (report.files, report.pictures, report.distinct, report.duplicates) == (6, 3, 2, 1)
    assert report.duplicate_groups == [["1.png", "3.png"]]
    assert report.original_sizes == {"20x20": 3}
    text = report.to_text()
    assert all(word in text for word in ("bad.jpg", "empty.png: the file is empty", "1.png, 3.png"))


def test_files_and_folders_that_cant_be_read_are_reported_by_name(tmp_path: Path) -> None:
    cats = tmp_path / "cats"
    cats.mkdir()
    (cats / "good.png").write_bytes(encoded(Image.new("RGB", (16, 16))))
    (cats / "gone.png").symlink_to("nowhere")
    _, report = images.read(str(cats), tmp_path / "store", 16)
    assert report.rejects == [{"name": "gone.png", "reason": "it can't be read: No such file or directory"}]


def test_no_pictures_at_all_is_told(tmp_path: Path) -> None:
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
            images.read(source, tmp_path / "store", 16)
    assert list((tmp_path / "store").iterdir()) == []


def test_two_members_of_one_name_are_two_pictures(tmp_path: Path) -> None:
    red, blue = (encoded(Image.new("RGB", (16, 16), colour)) for colour in ("red", "blue"))
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as opened:
        opened.writestr("cat.png", red)
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("cat.png", blue)
    image_set, _ = images.read(str(tmp_path / "twice.zip"), tmp_path / "store", 16)
    assert image_set.names == ("cat.png", "cat.png#2")
    assert image_set.pixels[0, 0, 0, 0] == 255
    assert image_set.pixels[1, 0, 0, 0] == 0


def test_a_set_is_mapped_from_the_disk_and_stands_once_for_the_same_pictures(tmp_path: Path) -> None:
    first, _ = images.read("drawn:5", tmp_path, 16)
    again, _ = images.read("drawn:5", tmp_path, 16)
    more, _ = images.read("drawn:6", tmp_path, 16)
    assert first == again == ImageSet.open(first.path)
    assert isinstance(first.pixels, np.memmap)
    assert not first.pixels.flags.writeable
    assert (first.digest, first.path) != (more.digest, more.path)
    assert sorted(tmp_path.iterdir()) == sorted([first.path, more.path])


def test_a_torn_set_is_noticed(tmp_path: Path) -> None:
    image_set, _ = images.read("drawn:5", tmp_path, 16)
    with (image_set.path / "pixels.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match="has 100 bytes in place of 3,840"):
        ImageSet.open(image_set.path)


@pytest.mark.cats
def test_every_real_cat_is_read_and_the_copies_among_them_are_counted(cats_set: ImageSet) -> None:
    assert len(cats_set) == 15_747
    assert len(set(cats_set.digests)) == 9_303
    assert [len(group) for group in images.duplicate_groups(cats_set)] == [2] * 6_444
