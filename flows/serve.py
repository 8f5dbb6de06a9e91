"""Serve the deployments on one machine, without a work pool. Each run that is due starts as a child process.

    catae serve          or    python -m flows.serve

At SIGTERM or Ctrl-C it sends SIGTERM to the runs and waits up to 30 s for them to end.
"""

import os
import signal
import threading
from typing import Any

from prefect import Flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from flows.generate import generate
from flows.interpolate import interpolate
from flows.sweep import catae_sweep
from flows.train import catae

# Training uses all CPUs of the machine, so a second run waits until the first one ends.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
FLOWS: dict[str, Flow[Any, Any]] = {
    "train": catae,
    "sweep": catae_sweep,
    "generate": generate,
    "interpolate": interpolate,
}


def deployments() -> list[RunnerDeployment]:
    """Return the deployments of `prefect.yaml`, for this process."""
    served = [
        RunnerDeployment.from_flow(
            flow,
            name,
            description=str(flow.description).splitlines()[0],
            tags=["catae", name],
            concurrency_limit=ONE_AT_A_TIME if name in ("train", "sweep") else None,
            entrypoint_type=EntrypointType.MODULE_PATH,  # child processes find it from any folder
        )
        for name, flow in FLOWS.items()
    ]
    for deployment in served:
        # Set explicitly: after an earlier `prefect deploy`, workers of the pool would take the runs as well.
        deployment.work_pool_name = deployment.work_queue_name = None
    return served


def treat_ctrl_c_as_sigterm() -> None:
    """Block SIGINT for the runs, and turn it into SIGTERM here: at Ctrl-C, Prefect would kill the runs.

    Child processes inherit the signals that a thread blocks. SIGINT may be delivered to any thread: to the one that
    waits for it, or to a thread that a library has started earlier and that does not block it.
    """

    def terminate(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def watch() -> None:
        while signal.sigwait({signal.SIGINT}):
            terminate()

    signal.signal(signal.SIGINT, terminate)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    treat_ctrl_c_as_sigterm()
    # Schedules made in the UI stay active after a restart of this process.
    serve(*deployments(), pause_on_shutdown=False)
