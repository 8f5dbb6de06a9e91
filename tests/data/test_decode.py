import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image, features

from catae.data import decode, sources, synthetic
from catae.data.decode import Decoded, Rejected
from catae.data.image_store import ImageStore
from catae.data.sources import Entry
from catae.errors import DecodeError

RED = (255, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


def colour_of(data: bytes) -> tuple[int, ...]:
    pixels = decode.decode(data, 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    return tuple(int(value) for value in np.median(pixels.reshape(-1, 3), axis=0))


def test_right_size_is_not_resized() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(decode.decode(encoded(Image.fromarray(noise)), 16), noise)


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
def test_every_mode_becomes_rgb(data: bytes, expected: tuple[int, ...] | None) -> None:
    assert expected is None or colour_of(data) == expected
    assert len(colour_of(data)) == 3


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 16), "white")
    image.paste("black", (0, 0, 16, 8))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise: the upper half becomes the right half
    pixels = decode.decode(encoded(image, exif=exif), 16)
    assert pixels[:, 12].mean() < 20
    assert pixels[:, 3].mean() > 235


def test_other_sizes_are_cropped_and_antialiased() -> None:
    wide = Image.new("RGB", (192, 64), RED)
    wide.paste("blue", (64, 0, 128, 64))
    assert colour_of(encoded(wide)) == (0, 0, 255)
    # One-pixel stripes average to grey; picking every eighth pixel would give black or white.
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(decode.decode(encoded(Image.fromarray(stripes)), 16).mean() - 127) < 3


def test_undecodable_bytes_have_a_reason() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    bomb = encoded(Image.new("1", (12_000, 12_000)))
    deep = encoded(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF")
    for data, reason in [
        (b"", "empty"),
        (b"just words", "not an image in a known format"),
        (whole[: len(whole) // 2], "cannot be decoded: .*truncated"),
        (bomb, "12000x12000 pixels exceed the limit of 64,000,000"),
        (deep, "floating-point"),
    ]:
        with pytest.raises(DecodeError, match=reason):
            decode.decode(data, 16)


def decode_file(name: str, data: bytes) -> Decoded | Rejected:
    (result,) = decode.decode_all([Entry(name, partial(bytes, data))], 16)
    return result


def test_bomb_is_refused_before_decoding() -> None:
    # 57 bytes declare 60,000 x 60,000 pixels; decoding would take 10 GB.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    refused = decode_file("bomb.png", data)
    assert isinstance(refused, Rejected)
    assert "pixels" in refused.reason


def test_wrong_extension_is_noted() -> None:
    read = decode_file("cat.jpg", encoded(Image.new("RGB", (20, 30), RED)))
    assert isinstance(read, Decoded)
    assert (read.note, read.original, read.mode) == ("a PNG with the extension .jpg", "20x30", "RGB")
    right = decode_file("cat.jpeg", encoded(Image.new("RGB", (20, 30), RED), "JPEG"))
    assert isinstance(right, Decoded)
    assert right.note == ""


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_yields_its_first_frame_and_a_note(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    read = decode_file(f"cat.{kind.lower()}", data)
    assert isinstance(read, Decoded)
    assert read.note == "an animation; its first frame is used"
    assert abs(np.frombuffer(read.pixels, np.uint8).reshape(-1, 3).mean(0) - RED).max() < 8


def test_large_jpeg_is_resized_accurately() -> None:
    """Decoding at reduced size, for speed, must not be visible."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    large = Image.fromarray(coarse).resize((2048, 2048), Image.Resampling.BICUBIC)
    data = encoded(large, "JPEG", quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.LANCZOS), np.int64)
    assert np.abs(decode.decode(data, 64) - whole).mean() < 1.5


def test_damage_after_the_first_frame_is_harmless() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, "blue")]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for cut in range(len(whole) // 2, len(whole)):  # found by fuzzing: Pillow raises an IndexError at one of the cuts
        decode_file("cat.gif", whole[:cut])
    read = decode_file("cat.gif", whole[:-2])
    assert isinstance(read, Decoded)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_newer_formats_are_decoded_if_pillow_supports_them(kind: str) -> None:
    if not features.check(kind.lower()):
        pytest.skip(f"this Pillow does not support {kind}")
    assert sources.is_image_name(f"cat.{kind.lower()}")
    colour = colour_of(encoded(Image.new("RGB", (40, 30), RED), kind))
    assert max(abs(got - wanted) for got, wanted in zip(colour, RED, strict=True)) < 8


def both(data: bytes, name: str = "cat.jpg") -> tuple[Decoded | None, Decoded | Rejected]:
    entry = Entry(name, partial(bytes, data))
    return decode.decode_plain_jpeg(entry, 64), decode.decode_all([entry], 64)[0]


@pytest.mark.parametrize("quality", [10, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_jpeg_decoder_equals_pillow(quality: int, subsampling: int, progressive: bool) -> None:
    image = synthetic.draw(quality + subsampling)
    plain, pillow = both(encoded(image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive))
    assert plain is not None
    assert plain == pillow
    grey, pillow = both(encoded(image.convert("L"), "JPEG", quality=quality, progressive=progressive))
    assert grey is not None
    assert grey == pillow


def test_other_files_are_left_to_pillow() -> None:
    image = synthetic.draw(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(image, "JPEG")
    for data, name in [
        (encoded(image, "JPEG", exif=exif), "turned.jpg"),
        (encoded(image.convert("CMYK"), "JPEG"), "ink.jpg"),
        (encoded(image.resize((80, 64)), "JPEG"), "wide.jpg"),
        (whole, "cat.png"),
        (whole[: len(whole) // 2], "torn.jpg"),
        (whole[:30], "stub.jpg"),
        (b"", "empty.jpg"),
        (b"\xff\xd8\xff\xe0\x00\x00" * 9, "loop.jpg"),
    ]:
        assert decode.decode_plain_jpeg(Entry(name, partial(bytes, data)), 64) is None, name


def test_header_with_another_size_is_not_decoded() -> None:
    data = bytearray(encoded(synthetic.draw(0), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert decode.decode_plain_jpeg(Entry("bomb.jpg", partial(bytes, bytes(data))), 64) is None


@pytest.mark.cats
def test_real_cats_equal_pillow(cats_zip: object, cats_set: ImageStore) -> None:
    entries = [entry for entry in sources.entries(str(cats_zip)) if entry.name.endswith("7.jpg")]
    by_name = {name: position for position, name in enumerate(cats_set.names)}
    for entry in entries:
        expected = decode.decode(entry.read(), 64)
        assert np.array_equal(cats_set.take([by_name[entry.name]])[0], expected), entry.name
    assert len(entries) > 1500
