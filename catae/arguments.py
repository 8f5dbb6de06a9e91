"""What can be said on the command line: the commands, their flags, and a worked example of each."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catae import settings

if TYPE_CHECKING:
    from pydantic import BaseModel

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # argparse has no public name for it

RUN = "the run whose model to use: latest, its id, or its folder (default: latest)"
ONE_PICTURE = "a test picture's name, or a picture's path"


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it gives has the command's name as `command`."""
    parser = argparse.ArgumentParser(
        "catae",
        description="Train a convolutional autoencoder on small pictures, on a CPU, and see what it learned.",
        epilog="example: catae train --source cats.zip",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    # In the order of `catae --help`.
    _train(commands)
    _fit(commands)
    _sweep(commands)
    _command(commands, "serve", "run what a Prefect server asks for, on this machine", "catae serve")
    _generate(commands)
    _fid(commands)
    _interpolate(commands)
    _attribute(commands)
    _reconstruct(commands)
    _compare(commands)
    _latents(commands)
    _export(commands)
    _play(commands)
    _inspect(commands)
    _cache(commands)
    return parser


def _train(commands: "Commands") -> None:
    train = _command(
        commands,
        "train",
        "run the whole job: read, split, train, show, report",
        "catae train --source cats.zip --max-epochs 20",
    )
    _add_settings(train, settings.RUN)


def _fit(commands: "Commands") -> None:
    fit = _command(
        commands,
        "fit",
        "read, split and train, without Prefect; by several processes, under torchrun",
        "torchrun --nproc-per-node 2 --max-restarts 3 -m catae fit --source cats.zip",
    )
    _add_settings(fit, settings.RUN)
    # What `catae train` starts with several CATAE_PROCESSES: it keeps the run, and is told of it in JSON. A `--run`
    # torchrun would take for an option of its own.
    fit.add_argument("--folder", type=Path, help=argparse.SUPPRESS)


def _sweep(commands: "Commands") -> None:
    sweep = _command(
        commands,
        "sweep",
        "train with each of several settings, and rank what came of it",
        "catae sweep --source cats.zip --latent-dim 32,64,128 --seed 0..4 --workers 2",
    )
    sweep.add_argument(
        "--trials",
        type=int,
        metavar="N",
        default=0,
        help="do not train with every combination, but let Optuna choose so many of them, one after the other, and end "
        "hopeless runs early; needs catae[search] (default: every combination)",
    )
    sweep.add_argument("--address", dest="runner_address", help=argparse.SUPPRESS)
    _add_settings(sweep, settings.GROUPS)
    sweep.description = (
        "Train with each of several settings, and rank what came of it. A setting that decides what is learned takes "
        "one value, several with commas between them, or a range: 0..4 of whole numbers is each of them; with "
        "--trials, 0.0001..0.01 is all that lies between. The same command goes on with a sweep that was interrupted."
    )


def _generate(commands: "Commands") -> None:
    generate = _command(
        commands,
        "generate",
        "draw new pictures from random latents",
        "catae generate --run latest --count 64 --seed 3 --prior gaussian --out new.png",
    )
    _add_run(generate)
    generate.add_argument("--count", help="how many pictures (default: CATAE_SAMPLES)")
    _add_samples(generate)
    _add_png(generate, "generated.png")


def _fid(commands: "Commands") -> None:
    fid = _command(
        commands,
        "fid",
        "measure how far new pictures are from test pictures, as the literature does",
        "catae fid --run latest --prior mixture",
    )
    _add_run(fid)
    _add_samples(fid)
    fid.add_argument("--weights", type=Path, help="the file of Inception's weights (default: they are downloaded)")


def _interpolate(commands: "Commands") -> None:
    interpolate = _command(
        commands,
        "interpolate",
        "draw the walk between two pictures, or the grid between four",
        "catae interpolate --run latest cats/17.jpg ~/tom.png --steps 50 --out walk.gif",
    )
    interpolate.add_argument("pictures", metavar="PICTURE", nargs="+", help=f"{ONE_PICTURE}: two, or four")
    _add_run(interpolate)
    interpolate.add_argument(
        "--steps",
        help="pictures in the walk (default: CATAE_INTERPOLATION_STEPS), or in a row of the grid (default: 8)",
    )
    interpolate.add_argument(
        "--path", choices=("linear", "spherical"), default="linear", help="straight or along an arc (default: linear)"
    )
    interpolate.add_argument("--rows", type=int, help="rows of a walk's PNG: 1 makes a strip (default: of 8 pictures)")
    interpolate.add_argument(
        "--out", type=_walk_path, help="the GIF, WebP, MP4 or PNG to write (default: walk.gif, or grid.png of four)"
    )


def _attribute(commands: "Commands") -> None:
    attribute = _command(
        commands,
        "attribute",
        "draw a picture with less and more of what tells two groups apart",
        "catae attribute cats/17.jpg --with cats/3.jpg cats/9.jpg --without cats/4.jpg ~/tom.png --out fur.png",
    )
    attribute.add_argument("picture", metavar="PICTURE", help=ONE_PICTURE)
    for flag, name, text in (
        ("--with", "having", "such pictures, that have something"),
        ("--without", "lacking", "others, that lack it"),
    ):
        attribute.add_argument(flag, dest=name, metavar="FILE", nargs="+", required=True, help=text)
    _add_run(attribute)
    _add_png(attribute, "attribute.png")


def _reconstruct(commands: "Commands") -> None:
    reconstruct = _command(
        commands,
        "reconstruct",
        "draw pictures over their restorations",
        "catae reconstruct --run latest ~/tom.png ~/kitty.jpg --out restored.png",
    )
    reconstruct.add_argument("files", metavar="FILE", nargs="+", help=ONE_PICTURE)
    _add_run(reconstruct)
    _add_png(reconstruct, "restored.png")


def _compare(commands: "Commands") -> None:
    compare = _command(
        commands,
        "compare",
        "show runs beside each other: settings that differ, times and scores",
        "catae compare 20261124-171815 20261125-090210 latest --html runs.html",
    )
    compare.add_argument("runs", metavar="RUN", nargs="+", help="latest, a run's id, or its folder: two or more")
    _add_json(compare)
    compare.add_argument("--html", type=Path, metavar="PAGE", help="a page with the loss curves to write")


def _latents(commands: "Commands") -> None:
    latents = _command(
        commands,
        "latents",
        "draw a map of the latents of test pictures",
        "catae latents latest --map umap --out map.png",
    )
    latents.add_argument("run", metavar="RUN", nargs="?", default="latest", help=RUN)
    latents.add_argument(
        "--map",
        choices=("pca", "umap"),
        default="pca",
        help="principal components, or UMAP, which keeps neighbours near and needs catae[umap] (default: pca)",
    )
    _add_png(latents, "latents.png")


def _export(commands: "Commands") -> None:
    export = _command(
        commands,
        "export",
        "write the model for others to use, with a model card",
        "catae export --run latest --format safetensors --format onnx --out cats",
    )
    _add_run(export)
    export.add_argument(
        "--format",
        dest="formats",
        choices=("safetensors", "onnx", "torch"),
        action="append",
        help="may be given several times; onnx needs catae[onnx] (default: safetensors)",
    )
    export.add_argument(
        "--out", type=Path, default=Path("exported"), metavar="FOLDER", help="where to write (default: exported)"
    )


def _play(commands: "Commands") -> None:
    play = _command(
        commands, "play", "open a page to drag between cats, on this machine alone", "catae play latest --port 8000"
    )
    play.add_argument("run", metavar="RUN", nargs="?", default="latest", help=RUN)
    play.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    play.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: 127.0.0.1)")


def _inspect(commands: "Commands") -> None:
    inspect = _command(
        commands,
        "inspect",
        "report what a folder or an archive holds, without training",
        "catae inspect cats.zip --html cats.html",
    )
    inspect.add_argument("source", metavar="SOURCE", help="as for catae train --source")
    _add_json(inspect)
    inspect.add_argument("--html", type=Path, metavar="PAGE", help="a page with pictures to write")


def _cache(commands: "Commands") -> None:
    cache = _command(commands, "cache", "list the decoded pictures that are kept for later runs", "catae cache --clear")
    cache.add_argument("--clear", action="store_true", help="remove those that no run uses")
    _add_json(cache)


def _command(commands: "Commands", name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A command, with its line in `catae --help`, and an example in its own."""
    return commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {example}"
    )


def _add_settings(command: argparse.ArgumentParser, groups: Sequence[type["BaseModel"]]) -> None:
    for group in groups:
        flags = command.add_argument_group(str(group.__doc__).rstrip("."))
        for name, field in group.model_fields.items():
            text = f"{field.description} (default: {field.default!s})".replace("%", "%%").replace("`", "")
            flags.add_argument(f"--{name.replace('_', '-')}", help=text, metavar=name.split("_")[-1].upper())


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", default="latest", help=RUN)


def _add_samples(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", help="another seed draws others (default: CATAE_SEED)")
    command.add_argument("--prior", help="randn, gaussian, mixture or neighbours (default: CATAE_PRIOR)")


def _add_png(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--out", type=_picture_path, default=Path(name), help=f"the PNG to write (default: {name})")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for machines")


def _picture_path(text: str, kinds: Sequence[str] = (".png", ".gif")) -> Path:
    path = Path(text).expanduser()
    if path.suffix.lower() not in kinds:
        raise argparse.ArgumentTypeError(f"{text} should end in {', '.join(kinds[:-1])} or {kinds[-1]}")
    return path


def _walk_path(text: str) -> Path:
    return _picture_path(text, (".gif", ".webp", ".mp4", ".png"))
