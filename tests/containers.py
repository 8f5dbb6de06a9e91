"""Helpers for tests of the image: the Docker engine, builds and containers."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DISK_SPACE = 20e9  # bytes that an image with CUDA and its build need
USER = "12345:12345"
HARDENED = [
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none",
    "--pids-limit", "256", "-m", "2g", "--memory-swap", "2g", "--cpus", "1", "--user", USER,
]  # fmt: skip


def docker(*arguments: str | Path, seconds: float = 300, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a `docker` command until it ends."""
    command = ["docker", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)


def require_engine() -> None:
    """Skip the test if no Docker engine answers, or if its disk is too full."""
    try:
        version = docker("version", "--format", "{{.Server.Version}}", seconds=30)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no Docker engine: {error}")
    if version.returncode:
        pytest.skip(f"no Docker engine answers: {version.stderr.strip()}")
    data_root = Path(docker("info", "--format", "{{.DockerRootDir}}").stdout.strip())
    if data_root.is_dir() and (free := shutil.disk_usage(data_root).free) < DISK_SPACE:
        pytest.skip(
            f"the Docker engine has {free / 1e9:.0f} GB of disk left; an image with CUDA and its build need 20 GB"
        )


def build(tag: str, dockerfile: str | None = None) -> str:
    """Build an image with `docker build`, or with the command in TEST_DOCKER_BUILD; return its tag.

    Args:
        tag: the tag of the image.
        dockerfile: the text of a Dockerfile to use instead of the project's.
    """
    command = [
        os.environ.get("TEST_DOCKER_BUILD", "docker build"),
        "-t",
        tag,
        "-f",
        "-" if dockerfile else "Dockerfile",
    ]
    built = subprocess.run(
        f"{' '.join(command)} .", shell=True, cwd=ROOT, input=dockerfile, capture_output=True, text=True, check=False,
        timeout=1800,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-5000:] + built.stderr[-5000:]
    return tag


@contextmanager
def run_container(*arguments: str | Path) -> Iterator[str]:
    """Start a container in the background and yield its name; remove it on exit."""
    name = f"catae-test-{uuid.uuid4().hex[:8]}"
    run = docker("run", "--detach", "--name", name, *arguments)
    try:
        assert run.returncode == 0, run.stderr
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def wait_for_line(container: str, prefix: str, seconds: float = 240) -> None:
    """Wait until the container's log has a line that starts with `prefix`."""
    command = ["timeout", str(seconds), "docker", "logs", "--follow", container]
    seen = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as log:
        assert log.stdout is not None
        for line in log.stdout:
            seen.append(line)
            if line.startswith(prefix):
                log.terminate()
                return
    raise AssertionError(f"no line starts with {prefix!r}:\n{''.join(seen)}")
