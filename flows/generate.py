"""New pictures from a trained run, as a flow: what `catae generate` does, where the run is."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from catae import run, settings
from catae.inference import gallery
from flows import parameters, tasks


def run_name() -> str:
    """What is drawn, for the UI."""
    resolved = settings.load(flow_run.parameters["samples"])
    return f"{resolved.samples} pictures · {resolved.prior} · seed {resolved.seed}"


@flow(name="catae", flow_run_name=run_name)
def generate(
    run_id: str = "latest", samples: parameters.Samples = parameters.NOTHING, out: parameters.PictureFile = ""
) -> Path:
    """Draws new pictures from random latents.

    Args:
        run_id: the run whose model to use: latest, its id, or its folder.
        samples: how many pictures, and of what.
        out: the PNG to write, on the machine that runs this; empty: a name that says what it is, in the run's folder.

    Returns:
        The picture's path.
    """
    chosen = settings.load(samples)
    source = run.trained(run_id, chosen.output_dir)
    path = Path(out) if out else source.path / f"generated-{chosen.prior}-{chosen.samples}-seed-{chosen.seed}.png"
    gallery.generate_from(source, chosen.prior, chosen.samples, chosen.seed, path)
    tasks.show_picture(path, "catae-generated", f"{run_name()}, of run {source.id}")
    return path
