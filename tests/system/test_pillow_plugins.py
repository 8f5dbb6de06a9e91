"""HEIC and JPEG XL, read with the plugins of `catae[formats]`."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catae.data import decode, ingest, sources, synthetic
from catae.errors import DecodeError
from catae.system import pillow_plugins

# The first bytes of JPEG XL files of 600x400 and 8x8 pixels, and of 100,000x100,000, as ISO/IEC 18181-1 defines them.
WIDE = b"\xff\x0a" + (0 | 0b00 << 1 | 399 << 3 | 4 << 12).to_bytes(12, "little")
TINY = b"\xff\x0a" + (1 | 0 << 1 | 1 << 6).to_bytes(12, "little")
BOMB = b"\xff\x0a" + (0 | 0b10 << 1 | 99_999 << 3 | 0 << 21 | 0b10 << 24 | 99_999 << 26).to_bytes(12, "little")


def boxes(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join((8 + len(data)).to_bytes(4, "big") + kind + data for kind, data in parts)


SIGNATURE = (b"JXL ", b"\r\n\x87\n")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (WIDE, (600, 400)),
        (TINY, (8, 8)),
        (BOMB, (100_000, 100_000)),
        (boxes(SIGNATURE, (b"Exif", bytes(99)), (b"jxlc", BOMB)), (100_000, 100_000)),
        (boxes(SIGNATURE, (b"jxlp", bytes(4) + WIDE[:3]), (b"jxlp", bytes(4) + WIDE[3:])), (600, 400)),
    ],
)
def test_size_of_a_jpeg_xl_is_read_from_its_header(data: bytes, size: tuple[int, int]) -> None:
    assert pillow_plugins.jxl_size(data) == size


@pytest.mark.parametrize("data", [b"", b"\0" * 40, boxes(SIGNATURE), b"\0\0\0\x01jxlc\0\0"])
def test_damaged_jpeg_xl_has_no_size(data: bytes) -> None:
    with pytest.raises(SyntaxError, match="no JPEG XL codestream"):
        pillow_plugins.jxl_size(data)


def plugin(kind: str) -> None:
    name = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[kind]
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'catae[formats]'")


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_formats_are_read_with_their_plugin(kind: str) -> None:
    plugin(kind)
    image = synthetic.draw(0, 0, 64)
    image.save(data := io.BytesIO(), kind, quality=95)
    error = decode.decode(data.getvalue(), 64).astype(int) - np.asarray(image)
    assert np.abs(error).mean() < 4


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_worker_processes_have_the_plugins(tmp_path: Path, kind: str) -> None:
    plugin(kind)
    cats = tmp_path / "cats"
    cats.mkdir()
    for number in range(ingest.CHUNK * (ingest.INLINE + 1)):
        synthetic.draw(number, 0, 16).save(cats / f"{number:03}.{'heic' if kind == 'HEIF' else 'jxl'}", kind)
    _, report = ingest.read(str(cats), tmp_path / "cache", 16)
    assert (report.pictures, report.rejects, report.unsupported) == (ingest.CHUNK * (ingest.INLINE + 1), [], [])


def test_jpeg_xl_that_declares_too_many_pixels_is_not_decoded() -> None:
    plugin("JXL")
    with pytest.raises(DecodeError, match="100000x100000 pixels exceed the limit of 64,000,000"):
        decode.decode(BOMB, 64)


READ = """
import json, sys
from pathlib import Path
if sys.argv[1] == "without":
    sys.modules["pillow_heif"] = sys.modules["pillow_jxl"] = None  # as if they were not installed
from catae.data import ingest
images, report = ingest.read("cats", Path("cache"), 16)
print(json.dumps([report.pictures, report.unsupported, images.path.name]))
"""


def test_set_read_with_the_plugins_is_not_mistaken_for_one_without(tmp_path: Path) -> None:
    plugin("HEIF")
    (tmp_path / "cats").mkdir()
    for number in range(3):
        synthetic.draw(number, 0, 16).save(tmp_path / "cats" / f"{number}.png")
    synthetic.draw(9, 0, 16).save(tmp_path / "cats/9.heic", "HEIF")
    assert sources.PLUGINS.startswith("pillow-heif ")
    outputs = [
        subprocess.run(
            [sys.executable, "-c", READ, how], capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout
        for how in ("without", "with", "without")
    ]
    assert outputs[0] == outputs[2]
    assert '[3, [{"name": "9.heic", "reason": "HEIC: pip install' in outputs[0]
    assert "[4, []," in outputs[1]
