"""What a sweep's runs are done by: processes of this machine, or a cluster of Dask's or Ray's."""

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

PATIENCE = 5.0  # seconds for a cluster to answer
FIND = "auto"  # Ray looks for the cluster that this machine is part of


def check(settings: Settings) -> None:
    """Sees to it that the runs can be done where the settings say.

    Raises:
        UserError: a library is missing, or nobody answers at the cluster's address.
    """
    kind, address = settings.runner, settings.runner_address
    if kind == "process":
        if address:
            raise UserError(
                f"CATAE_RUNNER_ADDRESS is {address!r}, but processes are of this machine: take --runner dask or "
                "--runner ray, or no address"
            )
        return
    if find_spec(f"prefect_{kind}") is None:
        raise UserError(f"--runner {kind} needs prefect-{kind}: pip install 'catae[{kind}]', or take --runner process")
    if address and address != FIND:
        _ask(address)


def start(settings: Settings) -> TaskRunner[Any]:
    """The runner, to be entered: a cluster that it starts ends with it, one that was there before stays."""
    address, workers = settings.runner_address or None, settings.workers
    runner: TaskRunner[Any] = ProcessPoolTaskRunner(workers)
    if settings.runner == "dask":
        from prefect_dask.task_runners import DaskTaskRunner

        # A process a run: of threads, each would wait for the others.
        here = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        runner = DaskTaskRunner(address=address, cluster_kwargs=None if address else here)
    elif settings.runner == "ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: its makers are told nothing
        from prefect_ray.task_runners import RayTaskRunner

        # Its store would take 30 % of the memory, and what is handed over are paths and small values.
        here = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 100_000_000}
        runner = RayTaskRunner(address, {"log_to_driver": False, **({} if address else here)})
    return runner


def failure(future: PrefectFuture[Any]) -> str | None:
    """Waits for a task to end, and tells why it failed, if it did: by its own error, or since its worker was lost."""
    try:
        future.wait()
        error = future.state.result(raise_on_failure=False)
    except Exception as lost:  # noqa: BLE001 - of a worker that was killed, each library tells by an error of its own
        error = lost
    return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else None


def workers_speak_to(settings: Settings) -> AbstractContextManager[Any]:
    """Has workers of this machine speak to this process's server, where that is the embedded one.

    Each of them would start one of its own, in 8 s. A cluster that was there before may be elsewhere, where this one
    can't be reached: its workers speak to the server that PREFECT_API_URL names, or to their own.
    """
    if settings.runner_address or PREFECT_API_URL.value():
        return nullcontext()
    with get_client(sync_client=True) as client:
        return temporary_settings({PREFECT_API_URL: str(client.api_url).rstrip("/")})


def _ask(address: str) -> None:
    """Looks whether somebody listens at `address`, which the libraries would try for up to minutes."""
    url = urlsplit(address if "://" in address else f"//{address}")
    where = f"--runner-address is {address!r} (CATAE_RUNNER_ADDRESS)"
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if not (host and port):
        raise UserError(f"{where}: it needs a host and a port, like tcp://10.0.0.5:8786 or ray://10.0.0.5:10001")
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise UserError(f"{where}: nobody answers there: {error}; start the cluster, or give no address") from error
