"""Fixtures of all tests: a clean environment, a temporary folder, and small image sets."""

import os

# Threads that wait for work sleep, and do not spin. Set before anything imports PyTorch, and inherited by every process
# that a test starts. On two busy cores a job of 2 epochs on 80 images takes 6 s of CPU time so, and 14 to 17 otherwise.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Every core runs a test. Jobs with two threads each would wait for each other: 15 images/s instead of 350.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchrun

from catae import settings
from catae.data import ingest
from catae.data.image_store import ImageStore
from catae.run import Run
from catae.settings import Settings

ROOT = Path(__file__).parent.parent
CATS = ROOT.parent / "shared" / "data" / "cats.zip"

# A script that runs the tests in the background ignores SIGINT, and the child processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the developer's settings, and change to a folder without `.env`."""
    for name in os.environ:
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def synthetic_images(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """120 synthetic cats of 32x32 pixels."""
    return ingest.read("drawn:120", tmp_path_factory.mktemp("store"), 32)[0]


@pytest.fixture(scope="session")
def cats_zip() -> Path:
    """The archive of real cats."""
    if not CATS.exists():
        pytest.skip("the real cats are missing: ../shared/data/cats.zip")
    return CATS


@pytest.fixture(scope="session")
def cats_set(cats_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """The real cats, decoded."""
    return ingest.read(str(cats_zip), tmp_path_factory.mktemp("cats"), 64)[0]


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    """Settings of a job that takes seconds."""
    return settings.load(
        {
            "source": "drawn:120",
            "image_size": 32,
            "latent_dim": 16,
            "width": 8,
            "max_epochs": 3,
            "samples": 6,
            "interpolation_steps": 7,
            "output_dir": tmp_path / "artifacts",
        }
    )


@pytest.fixture(scope="session")
def two_process_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run trained by two processes."""
    return torchrun.train_in_two_processes(tmp_path_factory.mktemp("two"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
