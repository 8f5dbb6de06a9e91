"""What the tests of the image share: an engine, the image, and a container of it as a user starts one."""

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOM = 20e9  # bytes
USER = "12345:12345"
HARDENED = [
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none",
    "--pids-limit", "256", "-m", "2g", "--memory-swap", "2g", "--cpus", "1", "--user", USER,
]  # fmt: skip


def docker(*arguments: str | Path, seconds: float = 300, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command of docker's, and waits for its end."""
    command = ["docker", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=seconds, check=False)


def engine() -> None:
    """Skips the test where no engine answers, with what docker says of it."""
    try:
        answered = docker("version", "--format", "{{.Server.Version}}", seconds=30)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"there is no Docker engine: {error}")
    if answered.returncode:
        pytest.skip(f"no Docker engine answers: {answered.stderr.strip()}")
    place = Path(docker("info", "--format", "{{.DockerRootDir}}").stdout.strip())
    if place.is_dir() and (free := shutil.disk_usage(place).free) < ROOM:
        pytest.skip(f"the engine has {free / 1e9:.0f} GB of disk left, and with CUDA an image and its building take 20")


def build(tag: str, dockerfile: str | None = None) -> str:
    """Builds the image with `docker build`, or with what TEST_DOCKER_BUILD names; gives its tag.

    Args:
        tag: what to call it.
        dockerfile: to take in the place of the project's.
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
def started(*arguments: str | Path) -> Iterator[str]:
    """A container that runs in the background, by its name; it is removed at the end, whatever became of it."""
    name = f"catae-test-{uuid.uuid4().hex[:8]}"
    begun = docker("run", "--detach", "--name", name, *arguments)
    try:
        assert begun.returncode == 0, begun.stderr
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def wait_for_line(container: str, beginning: str, seconds: float = 240) -> None:
    """Waits until the container's log has a line that begins so."""
    command = ["timeout", str(seconds), "docker", "logs", "--follow", container]
    seen = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as log:
        assert log.stdout is not None
        for line in log.stdout:
            seen.append(line)
            if line.startswith(beginning):
                log.terminate()
                return
    raise AssertionError(f"no line begins with {beginning!r}:\n{''.join(seen)}")


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds, now or within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(1)
    return holds()
