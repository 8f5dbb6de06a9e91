"""Connect the command line to Prefect's server, which may be unreachable at the start or at the end."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    temporary_settings,
)

from catae.errors import UserError
from catae.run import LATEST, find_run

TIMEOUT = 10.0  # seconds for the first answer, with room for a busy machine; the connection is tried four times


class Unreported(UserError):
    """The job has ended, but the server could not be notified."""


@contextmanager
def use_server(output_dir: Path, warm_up: Callable[[], object]) -> Iterator[None]:
    """Check the server at PREFECT_API_URL, or start one if the variable is not set.

    Args:
        output_dir: of the job, to find its run and report how it ended.
        warm_up: called while the embedded server starts, for example to import the flow.

    Raises:
        UserError: the server does not answer or rejects the password; nothing has been started.
        Unreported: the server no longer answers at the end, and does not know how the run has ended.
    """
    url = PREFECT_API_URL.value()
    if url:
        _check_server(url)
    else:
        _start_server(warm_up)
    try:
        yield
    except httpx.HTTPError as error:
        run = find_run(LATEST, output_dir)
        manifest = run.read()
        because = f" ({manifest['error']})" if manifest["error"] else ""
        missing = ", ".join([*manifest.get("unpublished", ()), "the end of the log", "and the state of the run"])
        raise Unreported(
            f"run {run.id} is {run.state()}{because}, with its files in {run.path}; but the Prefect server at {url} no "
            f"longer answers, and lacks {missing}"
        ) from error


def _start_server(warm_up: Callable[[], object]) -> None:
    """Start Prefect's embedded server, which takes 4 s, and call `warm_up` meanwhile.

    Raises:
        UserError: its folder cannot be written to; the server would never become ready.
    """
    home = PREFECT_HOME.value()
    try:
        home.mkdir(0o700, parents=True, exist_ok=True)  # the mode that Prefect uses: the folder may hold keys
        TemporaryFile(dir=home).close()
    except OSError as error:
        raise UserError(
            f"Prefect's embedded server cannot write to its folder {home}: {error.strerror}; set PREFECT_HOME to "
            "another folder"
        ) from error
    with ThreadPoolExecutor(1) as executor:
        started = executor.submit(_request_version)
        warm_up()
        started.result()


def _request_version() -> None:
    """Request the server's version; without PREFECT_API_URL, this makes Prefect start its embedded server."""
    with get_client(sync_client=True) as client:
        client.api_version()


def _check_server(url: str) -> None:
    """Check that the server at `url` answers, with a request that needs the password.

    Raises:
        UserError: it does not.
    """
    limits = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: TIMEOUT}
    server = f"the Prefect server at {url} (PREFECT_API_URL)"
    try:
        with temporary_settings(limits), get_client(sync_client=True) as client:
            client.api_version()
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise UserError(f"{server} answers {error.response.status_code}; does the address end in /api?") from error
        problem = "rejects" if PREFECT_API_AUTH_STRING.value() else "needs a password: set"
        raise UserError(f"{server} {problem} PREFECT_API_AUTH_STRING=user:password") from error
    except httpx.HTTPError as error:
        raise UserError(
            f"{server} does not answer: {error}; start it (prefect server start), or unset PREFECT_API_URL to use the "
            "embedded one"
        ) from error
    except ValueError as error:
        raise UserError(f"{server} answers, but is not a Prefect server; does the address end in /api?") from error
