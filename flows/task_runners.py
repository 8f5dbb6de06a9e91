"""Task runners for the trials of a sweep: processes of this machine, or a Dask or Ray cluster."""

import logging
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from catae.errors import UserError
from catae.settings import Settings

TIMEOUT = 5.0  # seconds for a cluster to answer
AUTO = "auto"  # Ray finds the cluster that this machine is part of


def check(settings: Settings) -> None:
    """Check that the task runner of the settings can be used.

    Raises:
        UserError: a library is missing, or no cluster answers at its address.
    """
    kind, address = settings.runner, settings.runner_address
    if kind == "process":
        if address:
            raise UserError(
                f"CATAE_RUNNER_ADDRESS is {address!r}, but --runner process uses this machine: choose --runner dask or "
                "--runner ray, or remove the address"
            )
        return
    if find_spec(f"prefect_{kind}") is None:
        raise UserError(f"--runner {kind} needs prefect-{kind}: pip install 'catae[{kind}]', or use --runner process")
    if address and address != AUTO:
        _check_address(address)


def create(settings: Settings) -> TaskRunner[Any]:
    """Return the task runner, a context manager. It stops a cluster at its end only if it has started it."""
    address, workers = settings.runner_address or None, settings.workers
    runner: TaskRunner[Any] = ProcessPoolTaskRunner(workers)
    if settings.runner == "dask":
        from prefect_dask.task_runners import DaskTaskRunner

        # One process per run: threads of one process would wait for each other. Workers log nothing: a heartbeat that
        # meets the closed scheduler at the end would print a traceback, and the sweep reports lost workers itself.
        local = {
            "n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL,
        }  # fmt: skip
        runner = DaskTaskRunner(address=address, cluster_kwargs=None if address else local)
    elif settings.runner == "ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported
        from prefect_ray.task_runners import RayTaskRunner

        # By default the object store takes 30% of the memory; here it holds paths and small values only.
        local = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 100_000_000}
        runner = RayTaskRunner(address, {"log_to_driver": False, **({} if address else local)})
    return runner


def failure(future: PrefectFuture[Any]) -> str | None:
    """Wait until a task ends; return why it failed, or None. A lost worker counts as a failure."""
    try:
        future.wait()
        error = future.state.result(raise_on_failure=False)
    except Exception as lost:  # noqa: BLE001 - each library has its own error for a worker that was killed
        error = lost
    return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else None


def share_server(settings: Settings) -> AbstractContextManager[Any]:
    """Let workers of this machine use the embedded server of this process, if it has one.

    Otherwise each of them would start its own, in 8 s. An existing cluster may be on other machines, which cannot reach
    this server: its workers use the server at PREFECT_API_URL, or their own.
    """
    if settings.runner_address or PREFECT_API_URL.value():
        return nullcontext()
    with get_client(sync_client=True) as client:
        return temporary_settings({PREFECT_API_URL: str(client.api_url).rstrip("/")})


def _check_address(address: str) -> None:
    """Check that something listens at `address`; the libraries themselves would retry for minutes.

    Raises:
        UserError: nothing does, or the address is malformed.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    prefix = f"--runner-address is {address!r} (CATAE_RUNNER_ADDRESS)"
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UserError(f"{prefix}: {error}") from error
    if not (host and port):
        raise UserError(f"{prefix}: it needs a host and a port, like tcp://10.0.0.5:8786 or ray://10.0.0.5:10001")
    try:
        socket.create_connection((host, port), TIMEOUT).close()
    except OSError as error:
        raise UserError(
            f"{prefix}: no cluster answers there: {error}; start the cluster, or remove the address"
        ) from error
