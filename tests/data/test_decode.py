import io
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features

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
    pages = "a file of several pages; the first is used"
    assert read.note == (pages if kind == "TIFF" else "an animation; its first frame is used")
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


def note_of(name: str, data: bytes) -> str:
    read = decode_file(name, data)
    assert isinstance(read, Decoded), read
    return read.note


def with_png_chunks(png: bytes, *chunks: tuple[bytes, bytes], wrong: int = 0, late: bool = False) -> bytes:
    """Return a PNG with further chunks before or after its pixels; `wrong` is added to their checksums."""
    at = len(png) - 12 if late else 33
    added = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) + wrong)
        for kind, body in chunks
    )
    return png[:at] + added + png[at:]


def with_jpeg_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return jpeg[:2] + added + jpeg[2:]


DAMAGED = "its metadata is damaged; the damaged part is ignored"
BAD_EXIF = "its EXIF is damaged and ignored"
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
PNG, JPEG, WEBP = encoded(PHOTO), encoded(PHOTO, "JPEG"), encoded(PHOTO, "WEBP", exif=b"Exif\0\0II*\0cats")
TEXT = b"cats\0\0" + zlib.compress(bytes(2**21))


@pytest.mark.parametrize(
    ("name", "data", "whole", "note"),
    [
        ("exif.jpg", with_jpeg_segments(JPEG, (0xE1, b"Exif\0\0" + b"no EXIF at all")), JPEG, BAD_EXIF),
        ("density.jpg", encoded(PHOTO, "JPEG", dpi=(72, 72), exif=b"Exif\0\0no EXIF at all"), JPEG, BAD_EXIF),
        ("exif.png", with_png_chunks(PNG, (b"eXIf", b"no EXIF at all")), PNG, BAD_EXIF),
        ("text.png", with_png_chunks(PNG, (b"tEXt", b"Raw profile type exif\0no\nEXIF\nat\nall")), PNG, BAD_EXIF),
        ("exif.webp", encoded(PHOTO, "WEBP", exif=b"no EXIF at all"), WEBP, BAD_EXIF),
        ("large.png", with_png_chunks(PNG, (b"zTXt", TEXT)), PNG, DAMAGED),
        ("late.png", with_png_chunks(PNG, (b"zTXt", TEXT), late=True), PNG, DAMAGED),
        ("crc.png", with_png_chunks(PNG, (b"tEXt", b"cats\0purr"), wrong=1), PNG, DAMAGED),
        ("colour.png", with_png_chunks(PNG, (b"gAMA", struct.pack(">I", 100_000)), wrong=1), PNG, DAMAGED),
        ("short.png", with_png_chunks(PNG, (b"gAMA", b"")), PNG, DAMAGED),
        ("profile.png", with_png_chunks(PNG, (b"iCCP", TEXT)), PNG, DAMAGED),
        ("jfif.jpg", with_jpeg_segments(JPEG, (0xE0, b"JFIF\0")), JPEG, DAMAGED),
        ("photoshop.jpg", with_jpeg_segments(JPEG, (0xED, b"Photoshop 3.0\0008BIM\0\0")), JPEG, DAMAGED),
        ("adobe.jpg", with_jpeg_segments(JPEG, (0xEE, b"Adobe")), JPEG, DAMAGED),
        ("end.jpg", JPEG[:-2], JPEG, "the end of the file is missing, but no pixels are"),
        ("half.jpg", JPEG[:-1], JPEG, "the end of the file is missing, but no pixels are"),
        ("cut.webp", WEBP[:-6], WEBP, DAMAGED),
    ],
)
def test_damaged_metadata_is_noted_and_pixels_are_read(name: str, data: bytes, whole: bytes, note: str) -> None:
    assert np.array_equal(decode.decode(data, 16), decode.decode(whole, 16))
    assert note_of(name, data) == note


def test_damaged_exif_of_an_avif_is_noted() -> None:
    exif = Image.Exif()
    exif[0x010F] = "cats"
    whole = encoded(PHOTO, "AVIF", exif=exif)
    at = whole.rindex(exif.tobytes()[6:])
    damaged = whole[:at] + b"no EXIF!" + whole[at + 8 :]
    assert np.array_equal(decode.decode(damaged, 16), decode.decode(whole, 16))
    assert note_of("cat.avif", damaged) == DAMAGED


def test_damaged_exif_of_a_tiff_is_noted() -> None:
    exif = Image.Exif()
    exif[0x010F] = "cats"
    data = encoded(PHOTO, "TIFF", exif=exif)
    at = data.index(struct.pack("<HHI", 0x010F, 2, 5))
    damaged = data[:at] + struct.pack("<HHIi", 0x8825, 9, 1, -1) + data[at + 12 :]  # GPS, at -1
    assert np.array_equal(decode.decode(damaged, 16), np.asarray(PHOTO))
    assert note_of("cat.tif", damaged) == BAD_EXIF
    assert note_of("cat.tif", data) == ""


def test_repaired_file_keeps_what_is_whole() -> None:
    image = Image.new("RGB", (16, 16), "white")
    image.paste("black", (0, 0, 16, 8))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, data in [
        ("cat.png", with_png_chunks(encoded(image, exif=exif, icc_profile=icc), (b"tEXt", b"cat\0purr"), wrong=1)),
        ("cat.jpg", with_jpeg_segments(encoded(image, "JPEG", exif=exif, icc_profile=icc), (0xEE, b"Adobe"))),
        ("cat.webp", encoded(image, "WEBP", exif=exif, icc_profile=icc, xmp=b"<cats/>")[:-3]),
    ]:
        pixels = decode.decode(data, 16)
        assert pixels[:, 12].mean() < 20, name
        assert pixels[:, 3].mean() > 235, name
        assert note_of(name, data) == DAMAGED


def test_missing_pixels_are_no_damaged_metadata() -> None:
    progressive = encoded(PHOTO, "JPEG", progressive=True)
    for name, data in [
        ("a.jpg", JPEG[:-20]),
        ("b.jpg", progressive[:-20]),
        ("c.png", PNG[:-40]),
        ("d.webp", WEBP[:90]),
    ]:
        assert isinstance(decode_file(name, data), Rejected), name
    both = with_png_chunks(PNG[:-40], (b"tEXt", b"cats\0purr"), wrong=1)
    with pytest.raises(DecodeError, match="the file is damaged or cut off"):  # not: the checksum of its text
        decode.decode(both, 16)
    palette = encoded(PHOTO.quantize(4))
    at = palette.index(b"PLTE") + 6
    assert isinstance(decode_file("e.png", palette[:at] + b"\1" + palette[at + 1 :]), Rejected)


def test_pillow_image_of_a_damaged_file_is_read(tmp_path: Path) -> None:
    """`catae.load(...).reconstruct` decodes an opened image like `catae inspect` decodes its file."""
    for name, data in [("end.jpg", JPEG[:-2]), ("late.png", with_png_chunks(PNG, (b"zTXt", TEXT), late=True))]:
        (tmp_path / name).write_bytes(data)
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(decode.to_pixels(image, 16), decode.decode(data, 16))
    with Image.open(io.BytesIO(JPEG[:-20])) as image, pytest.raises(DecodeError, match="truncated"):
        decode.to_pixels(image, 16)


def test_pillow_image_is_not_changed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (encoded(PHOTO, exif=exif), encoded(Image.new("I;16", (40, 20), 200)), encoded(PHOTO, "TIFF")):
        image = Image.open(io.BytesIO(data))
        image.load()
        before = (image.tobytes(), image.mode, image.size, dict(image.info))
        assert np.array_equal(decode.to_pixels(image, 16), decode.decode(data, 16))
        assert (image.tobytes(), image.mode, image.size, dict(image.info)) == before


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_in_xmp_alone_is_ignored(kind: str) -> None:
    """Browsers turn by EXIF only. https://drafts.csswg.org/css-images-3/#the-image-orientation"""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.new("RGB", (16, 16), "white")
    image.paste("black", (0, 0, 16, 8))
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {"PNG": {"pnginfo": info}, "TIFF": {"tiffinfo": {700: xmp}}}.get(kind, {"xmp": xmp})
    data = encoded(image, kind, **options)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    pixels = decode.decode(data, 16)
    assert pixels[3].mean() < 20
    assert pixels[12].mean() > 235
    assert np.array_equal(decode.to_pixels(Image.open(io.BytesIO(data)), 16), pixels)


def test_orientation_is_applied_next_to_odd_values() -> None:
    """Pillow fails to write this EXIF anew, which turning with `ImageOps.exif_transpose` would do."""
    entries = [(0x0112, 3, 1, 6), (0x011A, 11, 1, 2**32 - 1)]  # orientation, and a density that is no number
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + directory + bytes(4)
    image = Image.new("RGB", (16, 16), "white")
    image.paste("black", (0, 0, 16, 8))
    data = encoded(image, "JPEG", exif=exif)
    with pytest.raises(ValueError, match="NaN"):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode.decode(data, 16)[:, 12].mean() < 20
    assert note_of("cat.jpg", data) == ""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
def test_every_orientation_is_applied_in_every_format(kind: str, orientation: int) -> None:
    corners = Image.new("RGB", (32, 16), "black")
    corners.paste("white", (0, 0, 16, 16))
    corners.paste(RED, (8, 0, 24, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = corners.copy()
    expected.getexif()[0x0112] = orientation
    expected = ImageOps.fit(ImageOps.exif_transpose(expected), (16, 16), Image.Resampling.LANCZOS)
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"quality": 95} if kind != "TIFF" else {}
    got = decode.decode(encoded(corners, kind, exif=exif, **options), 16)
    assert np.abs(got.astype(int) - np.asarray(expected)).mean() < 8


def test_gif_is_white_outside_its_first_frame() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    data = bytearray(encoded(image, "GIF"))
    data[6:10] = struct.pack("<HH", 16, 16)  # the canvas
    at = data.index(b"\x2c\0\0\0\0\x08\0\x08\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 4, 4)
    pixels = decode.decode(bytes(data), 16)
    assert pixels[0, 0].tolist() == pixels[15, 15].tolist() == [255, 255, 255]
    assert pixels[5, 5].tolist() == [255, 0, 0]


def test_later_frame_of_a_pillow_gif_is_whole() -> None:
    frames = [Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), RED)]
    frames[1].paste("blue", (4, 4, 8, 8))
    image = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    image.seek(1)
    assert np.array_equal(decode.to_pixels(image, 16), np.asarray(frames[1]))


def test_layers_are_called_layers() -> None:
    record = struct.pack(">4iH", 0, 0, 1, 1, 1) + struct.pack(">hI", 0, 2) + b"8BIMnorm" + bytes(4) + bytes(4)
    layers = struct.pack(">h", 2) + record * 2 + bytes(6)
    section = struct.pack(">I", len(layers)) + layers + bytes(4)
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 16, 16, 8, 3)
    data = (
        header
        + bytes(8)
        + struct.pack(">I", len(section))
        + section
        + bytes(2)
        + np.asarray(PHOTO).transpose(2, 0, 1).tobytes()
    )
    assert np.array_equal(decode.decode(data, 16), np.asarray(PHOTO))
    assert note_of("cat.psd", data) == "a file of several layers; the merged image is used"


@pytest.mark.parametrize(
    ("size", "note"),
    [
        ((65_500, 1), "only its central square is used, 0.0015 % of its area; enlarged 16 times"),
        ((1, 1), "enlarged 16 times"),
        ((3, 4), "enlarged 5.33 times"),
        ((4, 4), ""),
        ((80, 320), ""),
        ((20, 81), "only its central square is used, 25 % of its area"),
    ],
)
def test_little_pixels_are_noted(size: tuple[int, int], note: str) -> None:
    assert note_of("cat.png", encoded(Image.new("RGB", size, RED))) == note


def test_large_transparent_image_takes_little_more_memory_than_itself(tmp_path: Path) -> None:
    """Pillow's 16 megapixels of RGBA take 64 MB, and so does the file."""
    Image.new("RGBA", (4000, 4000), (255, 0, 0, 128)).save(tmp_path / "cat.tif")
    code = (
        "import sys; from pathlib import Path; from catae.data import decode\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "print(decode.decode(data, 64)[0, 0].tolist(), peak() - before)"
    )
    command = [sys.executable, "-c", code, tmp_path / "cat.tif"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    colour, _, grown = ran.stdout.rpartition(" ")
    assert colour == "[255, 127, 127]"
    assert int(grown) < 2 * 64_000


@pytest.mark.parametrize("side", [500, 700, 1000, 2000])
def test_large_image_is_resized_accurately(side: int) -> None:
    """Averaging blocks first, for memory, must not be visible, and not move the image."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    large = Image.fromarray(coarse).resize((side + 33, side), Image.Resampling.BICUBIC)
    expected = ImageOps.fit(large, (64, 64), Image.Resampling.LANCZOS)
    difference = np.abs(decode.decode(encoded(large), 64).astype(int) - np.asarray(expected))
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def float_tiff() -> bytes:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "TIFF", tiffinfo={339: (1, 1, 1)}))
    for tag, values in ((258, (32, 32, 32)), (339, (3, 3, 3))):
        at = data.index(struct.pack("<HHI", tag, 3, 3)) + 8
        at = int.from_bytes(data[at : at + 4], "little")
        data[at : at + 6] = struct.pack("<3H", *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(50), "an HEIC file, which Pillow cannot read; convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(50), "an HEIC file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "a JPEG XL file"),
        (b"\n<!DOCTYPE html><title>404", "text such as HTML or SVG, not pixels"),
        (
            float_tiff(),
            "not a readable TIFF: 3 x 32 bits floating-point per pixel in colours of kind 2 are not supported",
        ),
        (PNG[:20] + b"\1" + PNG[21:], "not a readable PNG: broken PNG file"),
        (encoded(PHOTO.convert("RGBA"), "AVIF").replace(b"ispe", b"eeee"), "not a readable AVIF: .*BMFF"),
        (encoded(PHOTO, "TIFF", compression="tiff_lzw")[:-50], "not a readable TIFF: unknown data organization"),
        (b"just words", "not an image in a known format"),
    ],
    ids=["heic", "heif", "jxl", "html", "float", "png", "avif", "tiff", "words"],
)
def test_reason_is_the_decoders(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode.decode(data, 16)


def test_worker_attaches_what_the_decoder_prints(capfd: pytest.CaptureFixture[str]) -> None:
    damaged = bytearray(encoded(PHOTO, "TIFF", compression="tiff_deflate"))
    damaged[30:40] = bytes(10)
    files = {"bad.tif": bytes(damaged), "good.png": PNG}
    results = decode.decode_in_worker([Entry(name, partial(bytes, data)) for name, data in files.items()], 16)
    assert isinstance(results[0], Rejected)
    assert "its compressed data is damaged; the decoder reports: ZIPDecode: " in results[0].reason
    assert results[1] == decode_file("good.png", PNG)
    assert capfd.readouterr().err == ""


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
