"""Random samples of a trained run, as a Prefect flow: like `catae generate`, on the machine that has the run."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from catae import settings
from catae.inference import gallery
from catae.run import find_trained_run
from flows import parameters, tasks


def run_name() -> str:
    """Return the name of the flow run in the UI: the number of images, the prior and the seed."""
    resolved = settings.load(flow_run.parameters["samples"])
    return f"{resolved.samples} images · {resolved.prior} · seed {resolved.seed}"


@flow(name="catae", flow_run_name=run_name)
def generate(
    run_id: str = "latest", samples: parameters.Samples = parameters.EMPTY, out: parameters.ImageFile = ""
) -> Path:
    """Draw images from random latents.

    Args:
        run_id: the run whose model is used: latest, its id, or its folder.
        samples: the number of images, the prior and the seed.
        out: the PNG or GIF file to write, on the machine that runs the flow; empty: a PNG in the folder of the run.

    Returns:
        The path of the image.
    """
    resolved = settings.load(samples)
    run = find_trained_run(run_id, resolved.output_dir)
    default = run.path / f"generated-{resolved.prior}-{resolved.samples}-seed-{resolved.seed}.png"
    path = Path(out) if out else default
    gallery.draw_run_samples(run, resolved.prior, resolved.samples, resolved.seed, path)
    tasks.publish_image(path, "catae-generated", f"{run_name()}, run {run.id}")
    return path
