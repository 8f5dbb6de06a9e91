"""Real Prefect servers for tests, and commands as a user types them."""

import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

SMALL = [
    "--image-size", "32", "--latent-dim", "8", "--width", "4", "--max-epochs", "2", "--samples", "4",
    "--interpolation-steps", "5",
]  # fmt: skip
PREFECT = [sys.executable, "-m", "prefect"]
LIMIT = 300  # seconds that a test waits for an event


def environment(prefect_home: Path, **variables: str) -> dict[str, str]:
    """Return the environment without the Prefect settings that importing `flows` sets."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return inherited | {"PREFECT_HOME": str(prefect_home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | variables


def start(prefect_home: Path, module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends."""
    command, variables = [sys.executable, "-m", module, *arguments], environment(prefect_home, **variables)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)


@functools.cache
def _database() -> bytes:
    """Return an empty Prefect database."""
    with tempfile.TemporaryDirectory() as home:
        subprocess.run(
            [*PREFECT, "server", "database", "upgrade", "--yes"], env=environment(Path(home)),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=True,
        )  # fmt: skip
        return (Path(home) / "prefect.db").read_bytes()


def with_database(home: Path) -> Path:
    """Copy an empty database to `home`: creating one takes 4 s of CPU time."""
    (home / "prefect.db").write_bytes(_database())
    return home


class Server:
    """A Prefect server with its own database. It keeps its loopback port when it is restarted."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home, self.log, self.port = home, home / "server.log", free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.variables = environment(home, PREFECT_UI_STATIC_DIRECTORY=str(home / "ui"), **variables)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self.log.open("a") as log:
            command = [*PREFECT, "server", "start", "--port", str(self.port)]
            self.process = subprocess.Popen(
                command, env=self.variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self.answers, self.log)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server and close its port; `start` may be called again."""
        self.send(number)
        assert self.process is not None
        self.process.wait(300)

    def answers(self) -> bool:
        """Return whether the server answers."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.api}/health").is_success
        except httpx.HTTPError:
            return False

    def ask(self, path: str, auth: tuple[str, str] | None = None, **body: Any) -> Any:
        """POST to the API and return the answer; repeat while the database is busy."""
        ask = functools.partial(httpx.post, f"{self.api}/{path}", json=body, auth=auth, timeout=30)
        answer = until(lambda: (answer := ask()).status_code != httpx.codes.SERVICE_UNAVAILABLE and answer)
        answer.raise_for_status()
        return answer.json()

    def tasks_of(self, flow_run: str, auth: tuple[str, str] | None = None) -> dict[str, str]:
        """Return the states of the tasks of a flow run, by name."""
        found = self.ask("task_runs/filter", auth, flow_runs={"id": {"any_": [flow_run]}})
        return {task_run["name"].rsplit("-", 1)[0]: task_run["state_name"] for task_run in found}


@contextmanager
def running(home: Path, **variables: str) -> Iterator[Server]:
    """Start a server; stop it on exit."""
    own = "PREFECT_API_DATABASE_CONNECTION_URL" in variables
    server = Server(home if own else with_database(home), **variables)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


@contextmanager
def background(log: Path, command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a background process; end it on exit."""
    with log.open("a") as file:
        process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return an unused loopback port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def until(condition: Callable[[], Any], log: Path | None = None) -> Any:
    """Wait until `condition()` is true; return its value.

    The TimeoutError after 5 minutes, on a machine of any speed, includes the end of `log`.
    """
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.25)
    raise TimeoutError(f"timed out after {LIMIT} s\n" + (log.read_text()[-6000:] if log and log.exists() else ""))
