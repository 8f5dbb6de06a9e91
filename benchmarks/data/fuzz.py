"""Fuzz the decoders of images and archives, guided by coverage (needs atheris).

    python benchmarks/data/fuzz.py -max_total_time=600 corpus/

The first byte of an input is the kind of the rest: an image, a zip or a tar. Any input must yield pixels of the right
shape, or a reason in one line. An input that fails is written to a file `crash-…`; keep it as a test.
"""

import io
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "catae", "zipfile", "tarfile"]):
    from PIL import Image

    from catae.data import decode, sources, synthetic
    from catae.errors import UserError

KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "AVIF", "JPEG2000", "QOI", "SGI")
SCRATCH = Path(tempfile.mkdtemp(prefix="catae-fuzz-"))


def one_input(data: bytes) -> None:
    """Read one input according to its first byte."""
    kind, body = data[:1], data[1:]
    if kind in (b"z", b"t"):
        path = SCRATCH / ("fuzz.zip" if kind == b"z" else "fuzz.tar")
        path.write_bytes(body)
        try:
            entries = list(sources.entries(str(path)))
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a UserError is a valid outcome
            return
    else:
        entries = [sources.Entry("cat.jpg", lambda: body)]
    # Like ingest, skip files that are refused or are not images.
    readable = [entry for entry in entries if not entry.refusal and entry.kind == "image"]
    for entry in readable:
        plain = decode.decode_plain_jpeg(entry, 16)
        assert plain is None or len(plain.pixels) == 16 * 16 * 3
    for result in decode.decode_all(readable, 16):
        if isinstance(result, decode.Decoded):
            assert len(result.pixels) == 16 * 16 * 3
        else:
            assert result.reason
            assert "\n" not in result.reason


def seeds(corpus: Path) -> None:
    """Write an image of each kind, and archives of some of them, as seeds."""
    corpus.mkdir(parents=True, exist_ok=True)
    image = synthetic.draw(0, 0, 16)
    encoded = {}
    for kind in KINDS:
        data = io.BytesIO()
        image.save(data, kind)
        encoded[kind] = data.getvalue()
        (corpus / f"seed-{kind}").write_bytes(b"p" + encoded[kind])
    for name, mode in (("palette", "P"), ("grey-alpha", "LA"), ("cmyk", "CMYK"), ("bits", "1"), ("deep", "I;16")):
        data = io.BytesIO()
        image.convert("L" if mode == "I;16" else mode).convert(mode).save(data, "TIFF" if mode == "CMYK" else "PNG")
        (corpus / f"seed-{name}").write_bytes(b"p" + data.getvalue())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in ("a.png", "b/c.jpg", "../d.gif"):
            opened.writestr(name, encoded["PNG"])
    (corpus / "seed-zip").write_bytes(b"z" + archive.getvalue())
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode=mode) as tar:  # type: ignore[call-overload]
            for name in ("a.png", "b/c.jpg"):
                member = tarfile.TarInfo(name)
                member.size = len(encoded["PNG"])
                tar.addfile(member, io.BytesIO(encoded["PNG"]))
        (corpus / f"seed-tar-{mode[2:]}").write_bytes(b"t" + archive.getvalue())


if __name__ == "__main__":
    if sys.argv[-1].startswith("-") or len(sys.argv) < 2:
        raise SystemExit(__doc__)
    seeds(Path(sys.argv[-1]))
    Image.init()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
