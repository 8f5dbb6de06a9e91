"""The job, as a flow: read, split, train, draw, restore, generate, interpolate, score, measure, map, report.

    catae train --source cats.zip          or    python -m flows.train --source cats.zip

It runs on Prefect's embedded server, or against PREFECT_API_URL where that is set.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, tags
from prefect.context import TagsContext
from prefect.runtime import flow_run

from catae import settings
from catae.data import cache, sources
from catae.pipeline import tracking
from catae.system import hardware
from flows import parameters, tasks


def run_name() -> str:
    """What is trained, for the UI: the source, the size of the code and the seed."""
    resolved = settings.load(parameters.given(*flow_run.parameters.values()))
    return f"{sources.label(resolved.source)} · {resolved.latent_dim} · seed {resolved.seed}"


@flow(name="catae", flow_run_name=run_name)
def catae(
    data: parameters.Data = parameters.NOTHING,
    model: parameters.Model = parameters.NOTHING,
    training: parameters.Training = parameters.NOTHING,
    pictures: parameters.Pictures = parameters.NOTHING,
) -> Path:
    """Trains an autoencoder on small pictures and shows what it learned.

    What is left empty is decided by the environment where the run starts.

    Args:
        data: which pictures, and how they are divided.
        model: the shape of the autoencoder.
        training: how the weights are found, and when the search ends.
        pictures: what is written, and where.

    Returns:
        The run's folder.
    """
    given = parameters.given(data, model, training, pictures)
    resolved = settings.load(given)
    hardware.use_threads(resolved.threads)
    # The run's tags are not its tasks': for each task with tags Prefect asks the server whether it may run, and one
    # that is gone would make it fail.
    with TagsContext(current_tags=set()):
        with tracking.recorded(resolved, settings.origins(given)) as new:
            images = tasks.read(new.path, resolved)
            with cache.in_use(images):
                tasks.divide(new.path, images, resolved)
                tasks.train_in_time(new.path, images, resolved)
                tasks.draw_curves(new.path)
                tasks.reconstruct(new.path, images)
                tasks.generate(new.path, resolved)
                tasks.interpolate(new.path, images, resolved)
                tasks.score(new.path, images, resolved)
                tasks.measure(new.path, images, resolved)
                tasks.map_latents(new.path, images, resolved)
                tasks.log_results(new.path, resolved)
                tasks.write_report(new.path)
                cache.trim(images.parent, resolved.cache_gb * 1e9)
        tasks.show(new.path)
    return new.path


def once(given: Mapping[str, Any]) -> Path:
    """Runs the flow in this process, with the settings that are given, by name; gives the run's folder."""
    with tags("catae", "train"):
        return catae(**parameters.sorted_into_forms(given))


if __name__ == "__main__":
    from catae.__main__ import main

    sys.exit(main(["train", *sys.argv[1:]]))
