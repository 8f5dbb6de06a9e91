"""An interpolation between two images, as a Prefect flow: like `catae interpolate`, on the machine that has the run."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from catae import settings
from catae.errors import UserError
from catae.inference.interpolate import draw_run_interpolation
from catae.run import find_trained_run
from flows import parameters, tasks


def run_name() -> str:
    """Return the name of the flow run in the UI: the two images, or the seed that chooses them."""
    given = flow_run.parameters
    if not given["a"]:
        return f"interpolation · seed {settings.load(given['steps']).seed}"
    return f"interpolation · {given['a']} · {given['b']}"


@flow(name="catae", flow_run_name=run_name)
def interpolate(
    run_id: str = "latest",
    a: str = "",
    b: str = "",
    path: parameters.PathShape = "linear",
    steps: parameters.Steps = parameters.EMPTY,
    out: parameters.AnimationFile = "",
) -> Path:
    """Draw the interpolation between two images.

    Args:
        run_id: the run whose model is used: latest, its id, or its folder.
        a: the name of a test image, or the path of an image on the machine that runs the flow.
        b: the second image; if both are empty, the seed chooses two test images.
        path: linear or spherical interpolation.
        steps: the number of steps, and the seed.
        out: the GIF, WebP or PNG file to write, on the machine that runs the flow; empty: a GIF in the run's folder.

    Returns:
        The path of the image.

    Raises:
        UserError: only one image is named.
    """
    if bool(a) != bool(b):
        raise UserError("interpolation needs two images: name both, or none")
    resolved = settings.load(steps)
    run = find_trained_run(run_id, resolved.output_dir)
    file = Path(out) if out else run.path / f"interpolation-{flow_run.id}.gif"
    names = draw_run_interpolation(run, [a, b] if a else [], resolved.interpolation_steps, resolved.seed, file, path)
    tasks.publish_image(file, "catae-interpolation", f"From {names[0]} to {names[1]}, {path}, run {run.id}")
    return file
