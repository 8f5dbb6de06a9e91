"""The job as a Prefect flow: read, split, train, draw, measure, report.

    catae train --source cats.zip

It runs on Prefect's embedded server, or on the server at PREFECT_API_URL.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, tags
from prefect.context import TagsContext
from prefect.runtime import flow_run

from catae import settings
from catae.data import sources
from catae.pipeline import stages, tracking
from catae.system import hardware
from flows import parameters, tasks


def run_name() -> str:
    """Return the name of the flow run in the UI: the source, the size of the latent and the seed."""
    resolved = settings.load(parameters.merge(*flow_run.parameters.values()))
    return f"{sources.label(resolved.source)} · {resolved.latent_dim} · seed {resolved.seed}"


@flow(name="catae", flow_run_name=run_name)
def catae(
    data: parameters.Data = parameters.EMPTY,
    model: parameters.Model = parameters.EMPTY,
    training: parameters.Training = parameters.EMPTY,
    output: parameters.Output = parameters.EMPTY,
) -> Path:
    """Train an autoencoder on small images and show what it learned.

    A field that is left empty takes its value from the environment of the process that runs the flow.

    Args:
        data: the images, and how they are split.
        model: the shape of the autoencoder.
        training: how the weights are learned, and when training ends.
        output: what is drawn, and where files are written.

    Returns:
        The folder of the run.
    """
    given = parameters.merge(data, model, training, output)
    resolved = settings.load(given)
    hardware.use_threads(resolved.threads)
    # Tasks don't inherit the tags of the flow run: before each task with tags, Prefect asks the server for its
    # concurrency limits, and an unreachable server would make the task fail.
    with TagsContext(current_tags=set()):
        with tracking.open_tracked_run(resolved, settings.origins(given)) as run:
            stages.run_stages(run, resolved, call=tasks.call_as_task)
        tasks.publish(run.path)
    return run.path


def run_train_flow(given: Mapping[str, Any]) -> Path:
    """Run the flow in this process, with settings by name; return the folder of the run."""
    with tags("catae", "train"):
        return catae(**parameters.to_forms(given))


if __name__ == "__main__":
    run_train_flow({})
