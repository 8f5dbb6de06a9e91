"""Prefect's server as the command line meets it: perhaps not there at the start, perhaps gone at the end."""

import importlib
from collections.abc import Iterator
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

from catae import run
from catae.errors import UserError

SECONDS = 5.0  # to answer the first question; its connection is tried four times


class Unreported(UserError):
    """The job has ended, and the server could not be told."""


@contextmanager
def spoken_to(output_dir: Path) -> Iterator[None]:
    """Tells the user in one line what is wrong with the server of PREFECT_API_URL; starts one where none is set.

    Args:
        output_dir: where the job's run is, to say how it ended.

    Raises:
        UserError: it doesn't answer, or wants another password, and so nothing has begun.
        Unreported: it no longer answers, and doesn't know how the run has ended.
    """
    url = PREFECT_API_URL.value()
    if url:
        _ask(url)
    else:
        _start()
    try:
        yield
    except httpx.HTTPError as error:
        ended = run.find(run.LATEST, output_dir)
        said = ended.read()
        because = f" ({said['error']})" if said["error"] else ""
        missing = ", ".join([*said.get("unpublished", ()), "the end of the log", "and the run's state"])
        raise Unreported(
            f"run {ended.id} is {run.state(ended)}{because}, and its files are in {ended.path}; but the Prefect server "
            f"at {url} no longer answers, and lacks {missing}"
        ) from error


def _start() -> None:
    """Starts Prefect's embedded server, which takes 4 s, and imports the flow meanwhile, which takes as long.

    Raises:
        UserError: nothing can be written to its folder, in which it would wait in vain for itself.
    """
    home = PREFECT_HOME.value()
    try:
        home.mkdir(0o700, parents=True, exist_ok=True)  # as Prefect makes it: it may hold keys
        TemporaryFile(dir=home).close()
    except OSError as error:
        raise UserError(
            f"Prefect's embedded server can't write to its folder {home}: {error.strerror}; give it another "
            "(PREFECT_HOME)"
        ) from error
    with ThreadPoolExecutor(1) as beside:
        started = beside.submit(_greet)
        importlib.import_module("flows.train")
        started.result()


def _greet() -> None:
    """Asks the server for its version; where no address is set, Prefect starts one for that."""
    with get_client(sync_client=True) as client:
        client.api_version()


def _ask(url: str) -> None:
    """Asks the server for something that it tells only those whom it lets in."""
    patience = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: SECONDS}
    there = f"the Prefect server at {url} (PREFECT_API_URL)"
    try:
        with temporary_settings(patience), get_client(sync_client=True) as client:
            client.api_version()
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise UserError(f"{there} answers {error.response.status_code}; does the address end in /api?") from error
        given = "refuses" if PREFECT_API_AUTH_STRING.value() else "asks for a password: set"
        raise UserError(f"{there} {given} PREFECT_API_AUTH_STRING=user:password") from error
    except httpx.HTTPError as error:
        raise UserError(
            f"{there} doesn't answer: {error}; start it (prefect server start), or unset PREFECT_API_URL to run without"
        ) from error
    except ValueError as error:
        raise UserError(f"{there} answers, but is none; does the address end in /api?") from error
