import hashlib
import io
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from catae.data import downloads
from catae.errors import DecodeError, UserError

IMAGES = {"cats/1.jpg": b"one", "cats/2.jpg": b"two"}
# The HTTP status for datasets of these owners; "owner" has the only valid ones.
REFUSALS = {"nobody": 404, "private": 403, "busy": 429, "stranger": 401}


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in IMAGES.items():
            archive.writestr(name, content)
    return data.getvalue()


class Kaggle(ThreadingHTTPServer):
    """A minimal Kaggle: the newest version of a dataset, a redirection, an archive.

    It also serves `files` by the last part of their URL.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive = zipped()
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Kaggle

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.rsplit("/", 1)[-1]
        self.server.requests.append(call)
        if request["ownerSlug"] in REFUSALS or request.get("datasetVersionNumber", 3) > 3:
            status = REFUSALS.get(request["ownerSlug"], 404)
            self.respond(status, json.dumps({"code": status, "message": "no"}).encode(), "application/json")
        elif call == "GetDataset":
            self.respond(200, json.dumps({"currentVersionNumber": 3}).encode(), "application/json")
        else:
            self.respond(302, b"", "text/plain", {"Location": f"http://localhost/{request['ownerSlug']}.zip"})

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.requests.append(name)
        files = {"owner.zip": self.server.archive, **self.server.files}
        self.respond(200 if name in files else 404, files.get(name, b"not here" * 4_000), "application/octet-stream")

    def respond(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Kaggle]:
    with Kaggle() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def _isolated_kagglehub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Isolate kagglehub from the developer's tokens and cache, and point it to http://localhost."""
    pytest.importorskip("kagglehub", reason="kagglehub is not installed: pip install 'catae[kaggle]'")
    for name in os.environ:
        if name.startswith("KAGGLE") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")


@pytest.fixture
def kaggle_server(_isolated_kagglehub: None, server: Kaggle, monkeypatch: pytest.MonkeyPatch) -> Kaggle:
    """Serve as kagglehub's proxy, because its endpoints are fixed."""
    monkeypatch.setenv("http_proxy", server.address)
    return server


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_dataset_is_downloaded_once(kaggle_server: Kaggle, tmp_path: Path) -> None:
    folder = downloads.kaggle("owner/cats")
    assert folder.is_relative_to(tmp_path / "kagglehub")
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")} == IMAGES
    assert kaggle_server.requests == ["GetDataset", "DownloadDataset", "owner.zip"]
    assert downloads.kaggle("owner/cats") == folder
    assert kaggle_server.requests[3:] == ["GetDataset"]


def test_cached_version_needs_no_network(kaggle_server: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = downloads.kaggle("owner/cats/versions/2")
    assert kaggle_server.requests == ["DownloadDataset", "owner.zip"]
    monkeypatch.setenv("http_proxy", closed_port())
    assert downloads.kaggle("owner/cats/versions/2") == folder
    with pytest.raises(UserError, match="such as kaggle:owner/cats/versions/1"):
        downloads.kaggle("owner/cats")


def run(script: str, *args: str) -> tuple[str, str]:
    """Run a script in a new interpreter and return its standard output and error."""
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout, done.stderr


@pytest.mark.usefixtures("kaggle_server")
def test_kagglehub_logs_instead_of_printing(tmp_path: Path) -> None:
    script = (
        "import logging, sys; logging.basicConfig(filename=sys.argv[1], level='INFO');"
        "from catae.data import downloads; downloads.kaggle('owner/cats')"
    )
    assert run(script, str(tmp_path / "log")) == ("", "")
    lines = (tmp_path / "log").read_text()
    assert "INFO:kagglehub.http_resolver:Extracting files" in lines
    assert "INFO:catae.data.downloads:kaggle:owner/cats is in " in lines


def test_import_is_lazy() -> None:
    script = "import sys; before = set(sys.modules); import catae.data.downloads; print(*(set(sys.modules) - before))"
    assert not {"kagglehub", "requests", "torch", "torchvision"}.intersection(run(script)[0].split())


@pytest.mark.usefixtures("kaggle_server")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/cats", r"no such dataset.*\(404\).*https://www\.kaggle\.com/datasets/nobody/cats"),
        ("owner/cats/versions/4", r"no such dataset or version \(404\)"),
        ("private/cats", r"\(403\).*KAGGLE_API_TOKEN"),
        ("private/cats/versions/1", r"\(403\).*KAGGLE_API_TOKEN"),
        ("stranger/cats", r"\(401\).*KAGGLE_API_TOKEN"),
        ("busy/cats", "responds with 429; wait"),
        ("lost/cats", r"\(404\)"),  # the dataset exists, but not its archive
    ],
)
def test_http_errors_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        downloads.kaggle(name)
    assert f"kaggle:{name}: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_isolated_kagglehub")
def test_no_network_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", closed_port())
    with pytest.raises(UserError, match=r"Kaggle cannot be reached.*fix the network"):
        downloads.kaggle("owner/cats")


@pytest.mark.parametrize("damage", ["no archive", "corrupt"])
def test_damaged_archive_error_names_the_cache(kaggle_server: Kaggle, damage: str) -> None:
    corrupt = bytearray(zipped())
    corrupt[40:50] = b"scribbling"  # the first member's content and the next one's header
    kaggle_server.archive = b"no archive" if damage == "no archive" else bytes(corrupt)
    with pytest.raises(UserError, match="delete datasets/owner/cats in") as error:
        downloads.kaggle("owner/cats")
    assert "\n" not in str(error.value)


def test_unwritable_cache_is_an_error(kaggle_server: Kaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"Not a directory.*KAGGLEHUB_CACHE"):
        downloads.kaggle("owner/cats")
    assert "owner.zip" not in kaggle_server.requests


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cats",
        "owner/",
        "owner/cats/3",
        "owner/cats/versions/0",
        "../cats",
        "owner/..",
        "owner/cats\n",
        "owner/kätzchen",
    ],
)
def test_malformed_name_is_an_error_before_any_import(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(UserError, match="it must be kaggle:OWNER/NAME") as error:
        downloads.kaggle(name)
    assert "\n" not in str(error.value)


def test_missing_kagglehub_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(UserError, match=r"pip install 'catae\[kaggle\]'"):
        downloads.kaggle("owner/cats")


# Breed number, species (1 is a cat) and head box or None, in the dataset's order.
PETS = {
    "Abyssinian_10": (1, 1, (20, 10, 40, 30)),
    "Abyssinian_2": (1, 1, (0, 0, 20, 20)),
    "Abyssinian_3": (1, 1, None),
    "beagle_1": (2, 2, (10, 10, 20, 20)),
    "Sphynx_1": (3, 1, (60, 30, 98, 60)),
}


def xml(name: str, box: tuple[int, int, int, int]) -> str:
    edges = "".join(f"<{edge}>{at}</{edge}>" for edge, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return (
        f"<annotation><folder>OXIIIT</folder><filename>{name}.jpg</filename>"
        "<size><width>100</width><height>60</height><depth>3</depth></size><segmented>0</segmented>"
        f"<object><name>cat</name><pose>Frontal</pose><bndbox>{edges}</bndbox></object></annotation>"
    )


def coordinates(size: tuple[int, int] = (100, 60)) -> Image.Image:
    """Return an image whose red is the column and whose green is the row."""
    image = Image.new("RGB", size)
    image.putdata([(x, y, 0) for y in range(size[1]) for x in range(size[0])])
    return image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Create the folder that torchvision would, with five pets."""
    folder = tmp_path / "oxford-iiit-pet"
    annotations = folder / "annotations"
    (annotations / "xmls").mkdir(parents=True)
    (folder / "images").mkdir()
    lines = [f"{name} {breed} {species} 1" for name, (breed, species, _) in PETS.items()]
    comments = ["#Image CLASS-ID SPECIES BREED ID", "#SPECIES: 1:Cat 2:Dog"]
    (annotations / "list.txt").write_text("\n".join(comments + lines) + "\n")
    (annotations / "trainval.txt").write_text("\n".join(line for line in lines if "_3 " not in line) + "\n")
    (annotations / "test.txt").write_text("\n".join(line for line in lines if "_3 " in line) + "\n")
    for name, (_, _, box) in PETS.items():
        coordinates().save(folder / "images" / f"{name}.jpg", quality=95)
        if box:
            (annotations / "xmls" / f"{name}.xml").write_text(xml(name, box))
    return tmp_path


def cropped(head: downloads.PetHead) -> Image.Image:
    return Image.open(io.BytesIO(downloads.crop_head(head.path, head.annotation)))


def test_cats_with_head_boxes_are_sorted_by_name(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        heads = downloads.pets(root)
    assert [head.name for head in heads] == ["Abyssinian_10.jpg", "Abyssinian_2.jpg", "Sphynx_1.jpg"]
    assert all(head.path.name == head.name and head.path.is_file() for head in heads)
    assert caplog.messages == ["pets: 3 of 4 cats have a head box; the others are left out"]


@pytest.mark.parametrize(
    ("box", "corner", "side"),
    [
        ((20, 10, 40, 30), (18, 8), 24),  # a margin of a tenth at each side
        ((20, 10, 40, 20), (18, 3), 24),  # a wide head: a square around its centre
        ((0, 0, 20, 20), (0, 0), 24),  # at the upper left edge
        ((80, 40, 100, 60), (76, 36), 24),  # at the lower right edge
        ((60, 5, 98, 55), (40, 0), 60),  # as large as the image allows
        ((0, 0, 100, 60), (20, 0), 60),
    ],
)
def test_crop_is_a_square_around_the_head_within_the_image(
    box: tuple[int, int, int, int], corner: tuple[int, int], side: int, tmp_path: Path
) -> None:
    # A PNG named .jpg, like some files of the dataset: its pixels are exact.
    coordinates().save(tmp_path / "cat.jpg", "PNG")
    (tmp_path / "cat.xml").write_text(xml("cat", box))
    crop = cropped(downloads.PetHead("cat.jpg", tmp_path / "cat.jpg", tmp_path / "cat.xml"))
    assert (crop.format, crop.size) == ("PNG", (side, side))
    assert crop.getpixel((0, 0)) == (*corner, 0)
    assert crop.getpixel((side - 1, side - 1)) == (corner[0] + side - 1, corner[1] + side - 1, 0)


def test_crop_can_be_sent_to_another_process(root: Path) -> None:
    head = downloads.pets(root)[0]
    read = pickle.loads(pickle.dumps(partial(downloads.crop_head, head.path, head.annotation)))
    assert read() == downloads.crop_head(head.path, head.annotation)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P"])
def test_other_image_modes_are_cropped(root: Path, mode: str) -> None:
    head = downloads.pets(root)[0]
    coordinates().convert(mode).save(head.path, "GIF" if mode == "P" else "JPEG")
    assert cropped(head).size == (24, 24)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("<annotation><object>", r"Abyssinian_10\.xml has no head box: no element found"),
        ("<annotation></annotation>", "no head box: no object/bndbox"),
        ("<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>", "no head box: invalid literal"),
        (xml("x", (40, 10, 20, 30)), r"its head box \(40, 10, 20, 30\) exceeds its 100x60 pixels"),
        (xml("x", (-1, 10, 20, 30)), "exceeds its 100x60 pixels"),
        (xml("x", (20, 10, 140, 30)), "exceeds its 100x60 pixels"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "list.txt">]><annotation>&b;</annotation>', "undefined entity"),
        (None, "no head box: .*No such file"),
    ],
)
def test_damaged_head_box_affects_one_image(root: Path, broken: str | None, message: str) -> None:
    first, *others = downloads.pets(root)
    first.annotation.unlink()
    if broken is not None:
        first.annotation.write_text(broken)
    with pytest.raises(DecodeError, match=message):
        downloads.crop_head(first.path, first.annotation)
    assert all(downloads.crop_head(head.path, head.annotation) for head in others)


def test_damaged_or_missing_image_affects_only_itself(root: Path) -> None:
    first, second, _ = downloads.pets(root)
    first.path.write_bytes(first.path.read_bytes()[:700])
    second.path.unlink()
    for head in (first, second):
        with pytest.raises(DecodeError, match="cannot be decoded"):
            downloads.crop_head(head.path, head.annotation)


@pytest.mark.parametrize("lost", ["list.txt", "trainval.txt", "xmls", "boxes", "half of list.txt"])
def test_incomplete_folder_is_an_error(root: Path, lost: str) -> None:
    annotations = root / "oxford-iiit-pet" / "annotations"
    if lost == "boxes":
        for file in (annotations / "xmls").iterdir():
            file.unlink()
    elif lost == "half of list.txt":
        (annotations / "list.txt").write_text("half a li")
    else:
        (annotations / lost).rename(root / "away")
    with pytest.raises(UserError, match=r"oxford-iiit-pet is incomplete: .*delete it and run again") as error:
        downloads.pets(root)
    assert "\n" not in str(error.value)


def resources(monkeypatch: pytest.MonkeyPatch, address: str, files: dict[str, bytes]) -> None:
    """Make torchvision download these files from `address`."""
    from torchvision.datasets import OxfordIIITPet

    listed = [(f"{address}/{name}", hashlib.md5(data).hexdigest()) for name, data in files.items()]
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", listed)


def packed(root: Path) -> dict[str, bytes]:
    """Return the two archives of the pets below `root`."""
    files = {}
    for part in ("images", "annotations"):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            archive.add(root / "oxford-iiit-pet" / part, part)
        files[f"{part}.tar.gz"] = data.getvalue()
    return files


# On Python 3.12 and 3.13 torchvision unpacks without an extraction filter, after checking the archive's digest.
@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_pets_are_downloaded_once_to_the_user_cache(
    server: Kaggle, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.files = packed(root)
    resources(monkeypatch, server.address, server.files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    heads = downloads.pets()
    assert heads[0].path == tmp_path / "cache" / "catae" / "pets" / "oxford-iiit-pet" / "images" / "Abyssinian_10.jpg"
    assert cropped(heads[0]).size == (24, 24)
    assert capfd.readouterr() == ("", "")
    server.requests.clear()
    assert downloads.pets() == heads
    assert server.requests == []
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cache").rename(tmp_path / ".cache")
    assert downloads.pets()[0].path.is_relative_to(tmp_path / ".cache" / "catae" / "pets")


def test_failed_pets_download_is_an_error(server: Kaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resources(monkeypatch, closed_port(), {"images.tar.gz": b""})
    with pytest.raises(UserError, match=r"cannot download pets:cats: .*refused.*; fix the network"):
        downloads.pets(tmp_path)
    resources(monkeypatch, server.address, {"images.tar.gz": b""})
    with pytest.raises(UserError, match=r"cannot download pets:cats: HTTP Error 404.*; fix the network"):
        downloads.pets(tmp_path)
    server.files = {"images.tar.gz": b"not what it should be"}
    with pytest.raises(UserError, match="is incomplete: File not found or corrupted"):
        downloads.pets(tmp_path)
