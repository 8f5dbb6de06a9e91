import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from catae.data import formats, ingest

RAW = ("cat.cr2", "cat.NEF", "cat.dng")
VECTOR = ("cat.svg", "cat.eps", "cat.wmf")
ARCHIVES = ("cats.zip", "a/cats.tar.gz", "cats.7z")
OTHER = (
    "README.pdf", "labels.h5", "clip.mpg", "labels.csv.gz", "notes.txt", "index.html", "song.mp3", ".hidden.jpg",
    "a/.cache/1.jpg", "__MACOSX/1.jpg",
)  # fmt: skip


def no_head() -> bytes:
    raise AssertionError("the name is enough")


@pytest.mark.parametrize("name", ["1.jpg", "a/2.JPEG", "x.webp", "../up.png", "layers.psd", "scan.tif"])
def test_images_are_known_by_name(name: str) -> None:
    assert formats.classify(name, no_head) == ("image", "")


@pytest.mark.parametrize("name", OTHER)
def test_other_files_are_known_by_name(name: str) -> None:
    assert formats.classify(name, no_head) == ("other", "")


@pytest.mark.parametrize(
    ("names", "reason"), [(RAW, "a raw file of a camera"), (VECTOR, "a vector image"), (ARCHIVES, "an archive inside")]
)
def test_unsupported_formats_say_what_to_do(names: tuple[str, ...], reason: str) -> None:
    for name in names:
        kind, why = formats.classify(name, no_head)
        assert (kind, why.startswith(reason), ";" in why) == ("unsupported", True, True)


@pytest.mark.parametrize("kind", formats.SNIFFED)
def test_images_are_known_by_their_first_bytes(kind: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, kind)
    assert formats.classify("cat", lambda: data.getvalue()[: formats.HEAD]) == ("image", "")


@pytest.mark.parametrize(
    ("head", "package"), [(b"\0\0\0\x1cftypheic", "pillow-heif"), (b"\xff\x0a\xff", "pillow-jxl-plugin")]
)
def test_a_format_without_its_plugin_names_the_package(head: bytes, package: str) -> None:
    # In a process without the plugins, which may be installed here: they add formats to Pillow when they are imported.
    code = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name: None if name.startswith('pillow_') else find(name)\n"
        f"from catae.data import formats; print(formats.classify('cat', lambda: {head!r}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("('unsupported'")
    assert f"needs the package {package}: pip install 'catae[formats]'" in found.stdout


@pytest.mark.parametrize(
    ("plugin", "kind", "extension"), [("pillow_heif", "HEIF", "heic"), ("pillow_jxl", "JXL", "jxl")]
)
def test_images_of_installed_plugins_are_read(tmp_path: Path, plugin: str, kind: str, extension: str) -> None:
    if plugin not in formats.PLUGINS:
        pytest.skip(f"{plugin} is not installed: pip install -e '.[formats]'")
    (tmp_path / "cats").mkdir()
    for number in range(300):  # enough that worker processes decode some
        colour = (number % 256, 99, 140)
        Image.new("RGB", (32, 32), colour).save(tmp_path / "cats" / f"{number:03}.{extension}", kind, quality=95)
    (tmp_path / "cats" / "cat").write_bytes((tmp_path / "cats" / f"007.{extension}").read_bytes())
    images, report = ingest.read(str(tmp_path / "cats"), tmp_path / "cache", 16)
    assert (report.pictures, report.skipped) == (301, [])
    assert abs(images.take([images.names.index("cat")])[0, 8, 8].astype(int) - (7, 99, 140)).max() <= 4


def test_classification_does_not_depend_on_the_systems_list_of_types(tmp_path: Path) -> None:
    (tmp_path / ".mime.types").write_text("text/troff 1\n")
    code = (
        "import mimetypes, sys; mimetypes.knownfiles.append(sys.argv[1]); from catae.data import formats\n"
        "print(formats.classify('cat.jpg.1', lambda: b'\\xff\\xd8\\xff'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".mime.types")]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert found.stdout == "('image', '')\n"
