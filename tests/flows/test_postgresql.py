"""Prefect's server on PostgreSQL, with a separate database and a password."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import SMALL, background, free_port, running, start, until

BINARIES = next(Path("/usr/lib/postgresql").glob("*/bin"), None)
PASSWORD = "nine lives"
# PostgreSQL refuses to run as root.
AS_NOBODY = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] if os.getuid() == 0 else []

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BINARIES, reason="no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql"),
]


@contextmanager
def postgresql() -> Iterator[int]:
    """Start a database cluster on a loopback port, with a password for the user postgres."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))  # the user nobody cannot read pytest's folders
    if AS_NOBODY:
        shutil.chown(folder, "nobody", "nogroup")
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    port, log = free_port(), folder / "log"
    initdb = [
        *AS_NOBODY, f"{BINARIES}/initdb", "--pgdata", f"{folder}/data", "--username", "postgres", "--auth",
        "scram-sha-256", "--pwfile", f"{folder}/password", "--no-sync",
    ]  # fmt: skip
    server = [
        *AS_NOBODY, f"{BINARIES}/postgres", "-D", f"{folder}/data", "-p", str(port), "-h", "127.0.0.1", "-k",
        f"{folder}",
    ]  # fmt: skip
    try:
        subprocess.run(initdb, capture_output=True, timeout=300, check=True)
        with background(log, server, dict(os.environ)) as process:
            until(lambda: psql(port, "SELECT 1").returncode == 0, log)
            yield port
            process.send_signal(signal.SIGINT)  # immediate; SIGTERM would wait for clients
    finally:
        shutil.rmtree(folder)


def psql(port: int, query: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    """Run a query."""
    command = [f"{BINARIES}/psql", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-w", "-At", "-c", query]
    variables = os.environ | {"PGPASSWORD": password}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, check=False)


def test_a_server_stores_the_run_in_a_postgresql_database_with_a_password(tmp_path: Path) -> None:
    with postgresql() as port:
        assert "password authentication failed" in psql(port, "SELECT 1", password="dog").stderr
        url = f"postgresql+asyncpg://postgres:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/postgres"
        with running(tmp_path, PREFECT_API_DATABASE_CONNECTION_URL=url) as server:
            job = start(tmp_path / "home", "catae", "train", "--source", "drawn:80", *SMALL, PREFECT_API_URL=server.api)
            assert job.returncode == 0, job.stderr
            states = until(lambda: psql(port, "SELECT name FROM task_run_state WHERE type = 'COMPLETED'").stdout)
            runs = psql(port, "SELECT name, state_type FROM flow_run").stdout
        assert runs == "drawn:80 · 8 · seed 0|COMPLETED\n"
        assert states
        assert not list(tmp_path.glob("*.db"))  # there is no SQLite database
