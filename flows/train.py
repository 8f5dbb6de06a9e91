"""The job, as a flow: read, split, train, draw the curves, restore, generate, interpolate, score, report.

    catae train --source cats.zip          or    python -m flows.train --source cats.zip

It runs on Prefect's embedded server, or against PREFECT_API_URL where that is set.
"""

import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from catae import cache, machine, run, settings, sources
from flows import tasks


def run_name() -> str:
    """What is trained, for the UI: the source, the size of the code and the seed."""
    resolved = settings.load(flow_run.parameters.get("overrides"))
    return f"{sources.label(resolved.source)} · {resolved.latent_dim} · seed {resolved.seed}"


@flow(name="catae", flow_run_name=run_name)
def catae(overrides: dict[str, Any] | None = None) -> Path:
    """Trains an autoencoder on small pictures and shows what it learned.

    Args:
        overrides: settings by name, like {"seed": 3}; the rest comes from the environment of the run.

    Returns:
        The run's folder.
    """
    resolved = settings.load(overrides)
    machine.use_threads(resolved.threads)
    with run.recorded(resolved, settings.origins(overrides)) as new:
        images = tasks.read(new.path, resolved)
        with cache.in_use(images):
            tasks.divide(new.path, images, resolved)
            tasks.train(new.path, images, resolved)
            tasks.draw_curves(new.path)
            tasks.reconstruct(new.path, images)
            tasks.generate(new.path, resolved)
            tasks.interpolate(new.path, images, resolved)
            tasks.score(new.path, images, resolved)
            tasks.write_report(new.path)
            cache.trim(images.parent, resolved.cache_gb * 1e9)
    return new.path


if __name__ == "__main__":
    from catae.__main__ import main

    sys.exit(main(["train", *sys.argv[1:]]))
