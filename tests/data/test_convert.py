"""Colours of files with profiles, of 16 bits, and with transparency, compared with the formulas that define them."""

import io
import struct
import zlib
from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from catae.data import convert, decode, synthetic
from catae.data.decode import Decoded
from catae.data.sources import Entry

D65 = (0.3127, 0.329)
REC709 = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
DISPLAY_P3 = (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
ADOBE = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SWAPPED = (*D65, 0.3, 0.6, 0.64, 0.33, 0.15, 0.06)  # sRGB with red and green exchanged
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SPACES = {
    "display-p3": (DISPLAY_P3, SRGB_CURVE),
    "adobe-rgb": (ADOBE, (563 / 256,)),
    "gamma-1.8": (REC709, (1.8,)),
    "linear": (REC709, (1.0,)),
    "swapped": (SWAPPED, SRGB_CURVE),
}
SIZE = 16
Array = npt.NDArray[np.float64]


def xyz(primaries: tuple[float, ...]) -> Array:
    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(primaries, (4, 2)))
    columns = np.transpose(colours)
    return columns * np.linalg.solve(columns, white)


def linear(values: npt.ArrayLike, curve: tuple[float, ...]) -> Array:
    """Return linear light, 0 to 1, of encoded values, 0 to 1."""
    encoded = np.asarray(values, np.float64)
    if len(curve) == 1:
        return encoded ** curve[0]
    gamma, a, b, c, d = curve
    return np.where(encoded < d, encoded * c, (a * encoded + b) ** gamma)


def to_srgb(values: npt.ArrayLike, primaries: tuple[float, ...], curve: tuple[float, ...]) -> Array:
    """Return 8-bit colours in sRGB, unrounded, of 8-bit colours with other primaries and another curve."""
    light = linear(np.asarray(values) / 255, curve) @ (np.linalg.inv(xyz(REC709)) @ xyz(primaries)).T
    return encode(light)


def encode(light: Array) -> Array:
    light = light.clip(0, 1)
    return np.asarray(255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055))


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def profile(space: bytes, tags: Mapping[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """Return an ICC profile."""
    index, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        index += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x", 128 + len(index + body), 0x04200000, kind, space, pcs, b"acsp")
    return header + fixed(0.9642, 1, 0.8249) + bytes(48) + index + body


def curve_tag(parameters: tuple[float, ...]) -> bytes:
    return b"para" + struct.pack(">4xH2x", 3 if len(parameters) > 1 else 0) + fixed(*parameters)


def rgb_profile(primaries: tuple[float, ...], curve: tuple[float, ...]) -> bytes:
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    white = xyz(primaries).sum(1)
    scale = np.diag(bradford @ [0.9642, 1, 0.8249] / (bradford @ white))
    columns = np.linalg.inv(bradford) @ scale @ bradford @ xyz(primaries)
    tags = {b"rgb"[at : at + 1] + b"XYZ": b"XYZ " + bytes(4) + fixed(*columns[:, at]) for at in range(3)}
    return profile(b"RGB ", tags | {name: curve_tag(curve) for name in (b"rTRC", b"gTRC", b"bTRC")})


def grey_profile(gamma: float) -> bytes:
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)
    return profile(b"GRAY", {b"wtpt": white, b"kTRC": curve_tag((gamma,))})


def lut_tag(inputs: int, outputs: int, table: bytes) -> bytes:
    """Return a table with two points per input."""
    header = b"mft1" + bytes((0, 0, 0, 0, inputs, outputs, 2, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return header + bytes(range(256)) * inputs + table + bytes(range(256)) * outputs


def ink_profile() -> bytes:
    """Return a CMYK profile whose blackest black has a lightness of 10 %, like ink on paper."""
    to_lab = b""
    for cyan, magenta, yellow, black in np.ndindex(2, 2, 2, 2):
        lightness = 26 + (229 - 55 * cyan - 90 * magenta - 20 * yellow) * (1 - black)
        hue = [128 + change * (1 - black) for change in (45 * magenta - 35 * cyan, 50 * yellow)]
        to_lab += bytes((lightness, *hue))
    to_ink = b"".join(bytes((0, 0, 0, 255 - 255 * lightness)) for lightness, _, _ in np.ndindex(2, 2, 2))
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    tags |= {b"A2B0": lut_tag(4, 3, to_lab), b"A2B1": lut_tag(4, 3, to_lab), b"B2A0": lut_tag(3, 4, to_ink)}
    return profile(b"CMYK", tags, b"prtr", b"Lab ")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


def with_chunks(png: bytes, **chunks: bytes) -> bytes:
    """Return a PNG with further chunks before its pixels."""
    parts = [struct.pack(">I", len(body)) + name.encode() + body for name, body in chunks.items()]
    return png[:33] + b"".join(part + struct.pack(">I", zlib.crc32(part[4:])) for part in parts) + png[33:]


def read(data: bytes, name: str = "cat.png", size: int = SIZE) -> tuple[npt.NDArray[np.uint8], str]:
    (result,) = decode.decode_all([Entry(name, partial(bytes, data))], size)
    assert isinstance(result, Decoded), result
    return np.frombuffer(result.pixels, np.uint8).reshape(size, size, 3), result.note


def ramps() -> npt.NDArray[np.uint8]:
    """Return 16 x 16 colours: red and green in steps of 17, and every other grey."""
    colours = np.stack(np.meshgrid(np.arange(0, 256, 17), np.arange(0, 256, 17), [60]), -1).reshape(16, 16, 3)
    colours[8:] = np.arange(0, 256, 2).reshape(8, 16, 1)
    return colours.astype(np.uint8)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_profiles_are_converted_to_srgb(space: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(ramps()), kind, icc_profile=rgb_profile(*SPACES[space]), **options)
    pixels, note = read(data, f"cat.{kind.lower()}")
    expected = to_srgb(ramps(), *SPACES[space])
    assert np.abs(pixels - expected).max() <= 1
    assert np.abs(expected - ramps()).max() > 10
    assert note == ""


def test_profile_of_jpeg2000_is_read() -> None:
    data = encoded(Image.fromarray(ramps()), "JPEG2000")
    at = data.index(b"colr") - 4
    icc = rgb_profile(*SPACES["display-p3"])
    box = struct.pack(">I4s3B", 11 + len(icc), b"colr", 2, 0, 0) + icc
    header = data.index(b"jp2h") - 4
    grown = struct.pack(">I", int.from_bytes(data[header : header + 4]) + len(box) - 15)
    data = data[:header] + grown + data[header + 4 : at] + box + data[at + 15 :]
    assert np.abs(read(data, "cat.jp2")[0] - to_srgb(ramps(), *SPACES["display-p3"])).max() <= 1


@pytest.mark.parametrize("space", ["display-p3", "adobe-rgb", "linear", "swapped"])
def test_profile_of_a_jpeg_is_converted_at_any_size(space: str) -> None:
    """A large JPEG is decoded at an eighth of its size first; one of the right size is not left to simplejpeg."""
    icc = rgb_profile(*SPACES[space])
    for side in (SIZE, 512):
        flat = Image.new("RGB", (side, side), (200, 90, 60))
        data = encoded(flat, "JPEG", quality=95, icc_profile=icc)
        stored = np.asarray(Image.open(io.BytesIO(data)))[0, 0]
        assert decode.decode_plain_jpeg(Entry("cat.jpg", partial(bytes, data)), SIZE) is None
        assert np.abs(read(data, "cat.jpg")[0] - to_srgb(stored, *SPACES[space])).max() <= 1


def test_jpeg_with_the_profile_of_srgb_stays_plain() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for image in (synthetic.draw(0), synthetic.draw(0).convert("L")):
        entry = Entry("cat.jpg", partial(bytes, encoded(image, "JPEG", icc_profile=icc)))
        bare = decode.decode_plain_jpeg(Entry("cat.jpg", partial(bytes, encoded(image, "JPEG"))), 64)
        assert bare is not None
        assert decode.decode_plain_jpeg(entry, 64) == bare
        assert decode.decode_all([entry], 64) == [bare]


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_grey_is_converted_by_grey_and_rgb_profiles(gamma: float) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = encode(linear(ramp / 255, (gamma,)))[..., None]
    for icc in (grey_profile(gamma), rgb_profile(REC709, (gamma,))):
        for image in (Image.fromarray(ramp), Image.merge("LA", [Image.fromarray(ramp), Image.new("L", (16, 16), 255)])):
            pixels, note = read(encoded(image, icc_profile=icc))
            assert np.abs(pixels - expected).max() <= 1
            assert note == ""


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_grey_of_16_bits_is_converted_before_it_is_rounded(gamma: float) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = encode(linear(ramp / 65535, (gamma,)))[..., None]
    for icc in (grey_profile(gamma), rgb_profile(REC709, (gamma,))):
        pixels, _ = read(encoded(Image.fromarray(ramp), icc_profile=icc), size=64)
        assert np.abs(pixels - expected).max() <= 1
    assert len(np.unique(pixels[:8])) > 40  # rounding linear light to 8 bits would leave 32 levels of the first eighth


def test_cmyk_is_converted_by_its_profile_and_black_is_black() -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0], ink[..., 1] = np.arange(0, 256, 17), np.arange(0, 256, 17)[:, None]
    ink[0, 0] = (0, 0, 0, 255)
    image = Image.fromarray(ink, "CMYK")
    for kind, name in [("TIFF", "cat.tif"), ("JPEG", "cat.jpg")]:
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        data = encoded(image, kind, icc_profile=ink_profile(), **options)
        stored = Image.open(io.BytesIO(data))
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        srgb, opened = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(ink_profile()))
        expected = ImageCms.profileToProfile(stored, opened, srgb, ImageCms.Intent(1), "RGB", flags=flags)
        assert expected is not None
        pixels, note = read(data, name)
        assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= 1
        assert np.abs(pixels.astype(int) - np.asarray(stored.convert("RGB"))).max() > 30
        assert note == ""
        assert pixels[0, 0].max() <= 8


def test_lab_is_converted() -> None:
    # Red is Lab 54.3, 80.8, 69.9: https://www.w3.org/TR/css-color-4/#lab-colors
    lab = Image.merge("LAB", [Image.new("L", (16, 16), value) for value in (138, 209, 198)])
    pixels, note = read(encoded(lab, "TIFF", icc_profile=profile(b"Lab ", {}, pcs=b"Lab ")), "cat.tif")
    assert np.abs(pixels[0, 0] - np.array([255, 0, 0])).max() <= 6
    assert note == ""


def test_colours_are_converted_before_they_mix_with_white() -> None:
    icc = rgb_profile(*SPACES["swapped"])
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    clear.paste((255, 0, 0, 128), (0, 0, 16, 8))
    pixels, _ = read(encoded(clear, icc_profile=icc))
    assert pixels[0, 0].tolist() == [127, 255, 127]
    assert pixels[15, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("transparency", [None, 1, bytes([255, 0])])
def test_palette_is_converted(transparency: object) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 8, 16, 16))
    options = {} if transparency is None else {"transparency": transparency}
    pixels, _ = read(encoded(image, icc_profile=rgb_profile(*SPACES["swapped"]), **options))
    assert pixels[0, 0].tolist() == [0, 255, 0]
    assert pixels[15, 0].tolist() == ([0, 0, 255] if transparency is None else [255, 255, 255])


@pytest.mark.parametrize(
    ("icc", "note"),
    [
        (b"no profile", "its colour profile is damaged; read as sRGB"),
        (rgb_profile(*SPACES["swapped"])[:200], "its colour profile is damaged; read as sRGB"),
        (profile(b"RGB ", {}), "its colour profile is damaged; read as sRGB"),
        (rgb_profile(*SPACES["swapped"]) + bytes(9 * 2**20), "its colour profile of 9,437,544 bytes is too large"),
        (grey_profile(1.0), "its colour profile is for GRAY pixels, which it does not have; the profile is ignored"),
        (ink_profile(), "its colour profile is for CMYK pixels, which it does not have; the profile is ignored"),
    ],
    ids=["words", "cut", "empty", "large", "grey", "ink"],
)
def test_unusable_profile_is_noted(icc: bytes, note: str) -> None:
    pixels, got = read(encoded(Image.fromarray(ramps()), "TIFF", icc_profile=icc), "cat.tif")
    assert np.array_equal(pixels, ramps())
    assert got.startswith(note)


def test_missing_part_of_a_profile_is_noted() -> None:
    data = encoded(synthetic.draw(0), "JPEG", icc_profile=rgb_profile(*SPACES["swapped"]) + bytes(100_000))
    at = data.index(b"ICC_PROFILE\0\2") - 4
    cut = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    pixels, note = read(cut, "cat.jpg", 64)
    assert np.array_equal(pixels, read(encoded(synthetic.draw(0), "JPEG"), "cat.jpg", 64)[0])
    assert note == "its colour profile is damaged; read as sRGB"


def test_one_transform_is_kept_per_profile() -> None:
    data = [
        encoded(synthetic.draw(index), icc_profile=rgb_profile(DISPLAY_P3, (gamma,)))
        for index in range(5)
        for gamma in (1.5, 1.6)
    ]
    before = convert._transform.cache_info().misses
    for item in data:
        read(item)
    assert convert._transform.cache_info().misses == before + 2


@pytest.mark.parametrize(
    ("chunks", "primaries", "curve"),
    [
        ({"gAMA": 100_000}, REC709, (1.0,)),
        ({"gAMA": 55_556}, REC709, (1.8,)),
        ({"gAMA": 45_455, "cHRM": DISPLAY_P3}, DISPLAY_P3, SRGB_CURVE),
        ({"cHRM": SWAPPED}, SWAPPED, SRGB_CURVE),
        ({"gAMA": 50_000, "cHRM": ADOBE}, ADOBE, (2.0,)),
        ({"gAMA": 45_455}, REC709, SRGB_CURVE),
        ({"sRGB": b"\0", "gAMA": 100_000}, REC709, SRGB_CURVE),
        ({"cICP": bytes((12, 13, 0, 1)), "sRGB": b"\0"}, DISPLAY_P3, SRGB_CURVE),
        ({"cICP": bytes((1, 8, 0, 1))}, REC709, (1.0,)),
    ],
)
def test_png_chunks_are_converted(
    chunks: dict[str, object], primaries: tuple[float, ...], curve: tuple[float, ...]
) -> None:
    bodies = {
        name: value
        if isinstance(value, bytes)
        else b"".join(
            struct.pack(">I", round(number * (100_000 if name == "cHRM" else 1))) for number in numbers(value)
        )
        for name, value in chunks.items()
    }
    pixels, note = read(with_chunks(encoded(Image.fromarray(ramps())), **bodies))
    assert np.abs(pixels - to_srgb(ramps(), primaries, curve)).max() <= 1
    assert note == ""


def numbers(value: object) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (float(str(value)),)


@pytest.mark.parametrize(
    ("chunks", "note"),
    [
        ({"cICP": bytes((9, 16, 0, 1))}, "colours of a kind that is not supported (cICP 9, 16); read as sRGB"),
        ({"gAMA": bytes(4)}, "its gamma of 0 makes no sense; read as sRGB"),
        ({"cHRM": bytes(32)}, "its chromaticities make no sense; read as sRGB"),
    ],
)
def test_senseless_png_chunks_are_noted(chunks: dict[str, bytes], note: str) -> None:
    pixels, got = read(with_chunks(encoded(Image.fromarray(ramps())), **chunks))
    assert np.array_equal(pixels, ramps())
    assert got == note


def test_primaries_of_an_avif_are_read() -> None:
    data = encoded(Image.new("RGB", (16, 16), (200, 90, 60)), "AVIF", quality=100)
    stored = np.asarray(Image.open(io.BytesIO(data)))[0, 0]
    assert read(data, "cat.avif")[0][0, 0].tolist() == stored.tolist()
    at = data.index(b"colrnclx") + 8
    data = data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]
    assert np.abs(read(data, "cat.avif")[0] - to_srgb(stored, DISPLAY_P3, SRGB_CURVE)).max() <= 1


def deep(brightest: int, darkest: int = 0) -> npt.NDArray[np.uint16]:
    return np.linspace(darkest, brightest, 256).round().astype(np.uint16).reshape(16, 16)


def tiff_tags(**tags: int) -> TiffImagePlugin.ImageFileDirectory_v2:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        number = {"low": 340, "high": 341}[name]
        directory.tagtype[number] = 3
        directory[number] = value
    return directory


@pytest.mark.parametrize(
    ("brightest", "white", "noted"),
    [
        (200, 255, True),
        (255, 255, True),
        (1000, 1023, True),
        (4095, 4095, True),
        (9000, 16383, True),
        (20_000, 65535, True),
        (40_000, 65535, False),
        (65_535, 65535, False),
    ],
)
def test_grey_of_fewer_than_16_bits_is_not_black(brightest: int, white: int, noted: bool) -> None:
    for kind in ("PNG", "TIFF"):
        pixels, note = read(encoded(Image.fromarray(deep(brightest)), kind), f"cat.{kind.lower()}")
        assert np.abs(pixels[..., 0] - deep(brightest) * 255.0 / white).max() <= 0.501
        assert note == (f"grey values from 0 to {brightest:,}; {white:,} is taken as white" if noted else "")


def test_dark_images_of_16_bits_are_no_duplicates() -> None:
    rng = np.random.default_rng(0)
    files = [encoded(Image.fromarray(rng.integers(0, 200, (16, 16), np.uint16))) for _ in range(2)]
    one, other = (read(data)[0] for data in files)
    assert np.abs(one.astype(int) - other).mean() > 30


def test_depth_that_a_tiff_states_is_used() -> None:
    stated = encoded(Image.fromarray(deep(900, 100)), "TIFF", tiffinfo=tiff_tags(low=100, high=900))
    pixels, note = read(stated, "cat.tif")
    assert (pixels.min(), pixels.max(), note) == (0, 255, "")
    full = encoded(Image.fromarray(deep(900)), "TIFF", tiffinfo=tiff_tags(low=0, high=65535))
    assert read(full, "cat.tif")[0].max() == 4
    floats = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.tagtype[341] = 11
    directory[341] = 1.0
    pixels, _ = read(encoded(Image.fromarray(floats), "TIFF", tiffinfo=directory), "cat.tif")
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))


def test_white_is_zero_is_inverted() -> None:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    data = bytearray(encoded(Image.fromarray(deep(65535)), "TIFF", tiffinfo=directory))
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[at] = 0
    pixels, _ = read(bytes(data), "cat.tif")
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(255, -1, -1))


def test_12_bits_of_a_tiff_are_used() -> None:
    values = deep(4095)
    pairs = values.reshape(-1, 2).astype(int)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    body = packed.astype(np.uint8).tobytes()
    tags = [(256, 16), (257, 16), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, len(body))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + directory + bytes(4)
    pixels, note = read(data, "cat.tif")
    assert np.abs(pixels[..., 0] - values * 255.0 / 4095).max() <= 0.501
    assert note == ""


def test_significant_bits_of_a_png_are_used() -> None:
    as_is = with_chunks(encoded(Image.fromarray(deep(2000))), sBIT=b"\x0c")
    pixels, note = read(as_is)
    assert np.abs(pixels[..., 0] - deep(2000) * 255.0 / 4095).max() <= 0.501
    assert note == ""
    scaled_up = with_chunks(encoded(Image.fromarray(deep(4095) << 4)), sBIT=b"\x0c")
    assert np.abs(read(scaled_up)[0][..., 0] - deep(4095) * 16 * 255.0 / 65535).max() <= 0.501
    dark = with_chunks(encoded(Image.fromarray(deep(100) << 4)), sBIT=b"\x0c")
    assert read(dark)[0].max() == 6


def test_transparent_grey_of_16_bits_becomes_white() -> None:
    values = np.full((16, 16), 30_000, np.uint16)
    values[8:] = 65_535
    pixels, _ = read(with_chunks(encoded(Image.fromarray(values)), tRNS=struct.pack(">H", 30_000)))
    assert pixels.min() == 255


def deep_colours(values: npt.NDArray[np.uint16], **chunks: bytes) -> bytes:
    """Return a PNG of uint16 (height, width, 3), which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return with_chunks(convert.PNG + bytes(25), IHDR=header, **chunks, IDAT=zlib.compress(rows), IEND=b"").replace(
        bytes(25), b"", 1
    )


def test_colours_of_16_bits_keep_their_transparency_and_are_noted_if_dark() -> None:
    values = np.full((16, 16, 3), 0x5678, np.uint16)
    values[8:] = 0x1234
    pixels, note = read(deep_colours(values, tRNS=struct.pack(">3H", 0x1234, 0x1234, 0x1234)))
    assert pixels[0, 0].tolist() == [0x56] * 3
    assert pixels[15, 0].tolist() == [255] * 3
    assert note == ""
    assert read(deep_colours(values >> 4))[1] == "pixels of 16 bits, of which the upper 8 are read: up to 5 of 255"


def test_grey_of_32_bits_is_scaled_by_its_brightest_value() -> None:
    values = np.linspace(-1000, 1_000_000, 256).astype(np.int32).reshape(16, 16)
    pixels, note = read(encoded(Image.fromarray(values), "TIFF"), "cat.tif")
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))
    assert note == "grey values from -1,000 to 1,000,000; 1,000,000 is taken as white"
