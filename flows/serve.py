"""The deployments on one box, without a pool: this process looks for runs that are due, and starts each as its child.

    catae serve          or    python -m flows.serve

At SIGTERM or Ctrl-C it passes SIGTERM on to the runs, and waits up to 30 s for them to end.
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

# Training takes all CPUs of a machine: a second run waits for the first one to end.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
FLOWS: dict[str, Flow[Any, Any]] = {
    "train": catae,
    "sweep": catae_sweep,
    "generate": generate,
    "interpolate": interpolate,
}


def deployments() -> list[RunnerDeployment]:
    """The same deployments as in `prefect.yaml`, for this process."""
    offered = [
        RunnerDeployment.from_flow(
            flow,
            name,
            description=str(flow.description).splitlines()[0],
            tags=["catae", name],
            concurrency_limit=ONE_AT_A_TIME if name in ("train", "sweep") else None,
            entrypoint_type=EntrypointType.MODULE_PATH,  # the children find it from any folder
        )
        for name, flow in FLOWS.items()
    ]
    for deployment in offered:
        # Said, where `prefect deploy` was here before: the pool's workers would take the runs as well.
        deployment.work_pool_name = deployment.work_queue_name = None
    return offered


def take_ctrl_c_for_sigterm() -> None:
    """Keeps Ctrl-C from the runs, and makes it SIGTERM here: at Ctrl-C, Prefect kills them.

    What a thread blocks, the processes that it starts block as well. The signal goes to any thread: to the one that
    waits for it, or to one of a library's, which has been there before and doesn't block it.
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
    take_ctrl_c_for_sigterm()
    # Schedules that were made in the UI go on after a restart of this process.
    serve(*deployments(), pause_on_shutdown=False)
