"""Fuzz the decoders: any bytes yield an image or a reason. benchmarks/data/fuzz.py is the long version."""

import io
import tarfile
import zipfile
from functools import cache, partial
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catae.data import decode, sources, synthetic
from catae.data.decode import Decoded
from catae.errors import UserError

KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "QOI", "SGI", "DDS")
Edit = tuple[float, int, bytes]  # offset as a fraction of the file, number of bytes to delete, bytes to insert
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=6)


@cache
def image(kind: str) -> bytes:
    data = io.BytesIO()
    synthetic.draw(0, 0, 16).save(data, kind)
    return data.getvalue()


@cache
def archive(kind: str) -> bytes:
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as opened:
            for name in ("a.png", "b/c.png", "notes.txt", "cat"):
                opened.writestr(name, image("PNG"))
    else:
        with tarfile.open(fileobj=data, mode=f"w:{kind.removeprefix('tar.')}") as tar:  # type: ignore[call-overload]
            for name in ("a.png", "b/c.png", "notes.txt", "cat"):
                member = tarfile.TarInfo(name)
                member.size = len(image("PNG"))
                tar.addfile(member, io.BytesIO(image("PNG")))
    return data.getvalue()


def edited(data: bytes, edits: list[Edit]) -> bytes:
    for offset, deleted, inserted in edits:
        at = round(offset * len(data))
        data = data[:at] + inserted + data[at + deleted :]
    return data


def check_reading(entries: list[sources.Entry]) -> None:
    readable = [entry for entry in entries if not entry.refusal and entry.kind == "image"]
    for entry in readable:
        plain = decode.decode_plain_jpeg(entry, 16)
        assert plain is None or len(plain.pixels) == 16 * 16 * 3
    for result in decode.decode_all(readable, 16):
        if isinstance(result, Decoded):
            assert len(result.pixels) == 16 * 16 * 3
        else:
            assert result.reason
            assert "\n" not in result.reason


@settings(max_examples=600, deadline=None, derandomize=True)
@given(kind=st.sampled_from(KINDS), edits=EDITS)
def test_damaged_image_yields_pixels_or_a_reason(kind: str, edits: list[Edit]) -> None:
    check_reading([sources.Entry("cat.jpg", partial(bytes, edited(image(kind), edits)))])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=300))
def test_noise_yields_pixels_or_a_reason(data: bytes) -> None:
    check_reading([sources.Entry("cat.png", partial(bytes, data))])


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kind=st.sampled_from(("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")), edits=EDITS)
def test_damaged_archive_yields_files_or_one_line(kind: str, edits: list[Edit], tmp_path: Path) -> None:
    path = tmp_path / f"cats.{kind}"
    path.write_bytes(edited(archive(kind), edits))
    try:
        entries = list(sources.entries(str(path)))
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are valid
        assert "\n" not in str(error)  # noqa: PT017
        return
    check_reading(entries)
