"""A walk between two pictures, as a flow: what `catae interpolate` does, where the run is."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from catae import run, settings
from catae.errors import UserError
from catae.inference import interpolate as walks
from flows import parameters, tasks


def run_name() -> str:
    """Between which pictures, for the UI."""
    asked = flow_run.parameters
    if not asked["a"]:
        return f"walk · seed {settings.load(asked['walk']).seed}"
    return f"walk · {asked['a']} · {asked['b']}"


@flow(name="catae", flow_run_name=run_name)
def interpolate(
    run_id: str = "latest",
    a: str = "",
    b: str = "",
    path: parameters.Way = "linear",
    walk: parameters.Walk = parameters.NOTHING,
    out: parameters.WalkFile = "",
) -> Path:
    """Draws the walk between two pictures.

    Args:
        run_id: the run whose model to use: latest, its id, or its folder.
        a: a test picture's name, or the path of a picture on the machine that runs this.
        b: another; if both are empty, two test pictures are taken by seed.
        path: straight, or along an arc.
        walk: how many steps.
        out: the GIF, WebP or PNG to write, on the machine that runs this; empty: a GIF in the run's folder.

    Returns:
        The picture's path.

    Raises:
        UserError: one picture is named, and the other isn't.
    """
    if bool(a) != bool(b):
        raise UserError("a walk has two ends: name both pictures, or none")
    chosen = settings.load(walk)
    source = run.trained(run_id, chosen.output_dir)
    file = Path(out) if out else source.path / f"walk-{flow_run.id}.gif"
    names = walks.walk_in(source, [a, b] if a else [], chosen.interpolation_steps, chosen.seed, file, path)
    tasks.show_picture(file, "catae-walk", f"From {names[0]} to {names[1]}, {path}, by run {source.id}")
    return file
