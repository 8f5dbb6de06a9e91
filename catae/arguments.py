"""Define the command line: the commands, their flags, and a worked example of each."""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from catae import settings

if TYPE_CHECKING:
    from pydantic import BaseModel

    Commands = argparse._SubParsersAction[Any]  # argparse has no public name for it

RUN = "run to use: latest, a run's id, or its folder (default: latest)"
IMAGE = "the name of a test image, or the path of an image"


class Parser(argparse.ArgumentParser):
    """A parser that names the new flag when an old one is used."""

    def error(self, message: str) -> Any:
        """Print the usage and the error, and exit with code 2."""
        unknown = message.replace("=", " ").split() if message.startswith("unrecognized arguments:") else []
        for old, new in settings.RENAMED.items():
            if f"--{old}" in unknown:
                message = f"--{old} is now --{new.replace('_', '-')}"
        for old, instead in settings.REMOVED.items():
            if (flag := f"--{old.replace('_', '-')}") in unknown:
                message = f"{flag} was removed: {instead}"
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. The parsed namespace has the command's name as `command`."""
    parser = Parser(
        "catae",
        description="Train a convolutional autoencoder on cat faces, on a CPU, and see what it learned: "
        "reconstructions, random samples and interpolations, each score next to a PCA baseline.",
        epilog="example: catae train --source cats.zip",
    )
    parser.add_argument("--version", action="version", version=f"catae {version('catae')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    # In the order of `catae --help`.
    _train(commands)
    _fit(commands)
    _sweep(commands)
    _command(commands, "serve", "execute the runs that a Prefect server schedules, on this machine", "catae serve")
    _runs(commands)
    _compare(commands)
    _generate(commands)
    _interpolate(commands)
    _reconstruct(commands)
    _attribute(commands)
    _latents(commands)
    _fid(commands)
    _export(commands)
    _play(commands)
    _inspect(commands)
    _cache(commands)
    return parser


def _train(commands: "Commands") -> None:
    train = _command(
        commands,
        "train",
        "run the whole job: read, split, train, evaluate, report",
        "catae train --source cats.zip --max-epochs 20",
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved settings, the number of images, the disk and memory needed, and the run that would "
        "be resumed; write nothing",
    )
    _add_json(train, "with --dry-run, print JSON")
    _add_settings(train, settings.RUN)


def _fit(commands: "Commands") -> None:
    fit = _command(
        commands,
        "fit",
        "read, split and train without Prefect, in one process or in those of torchrun",
        "torchrun --nproc-per-node 2 --max-restarts 3 -m catae fit --source cats.zip",
    )
    _add_settings(fit, settings.RUN)
    # `catae train` starts this with CATAE_PROCESSES: it owns the run, and reads its progress as JSON. torchrun would
    # take `--run` for an option of its own.
    fit.add_argument("--folder", type=Path, help=argparse.SUPPRESS)


def _sweep(commands: "Commands") -> None:
    sweep = _command(
        commands,
        "sweep",
        "train with several values of one or more settings, and rank the results",
        "catae sweep --source cats.zip --latent-dim 32,64,128 --seed 0..4 --workers 2",
    )
    sweep.add_argument(
        "--trials",
        type=int,
        metavar="N",
        default=0,
        help="search with Optuna instead of trying every combination: run N trials, and prune those that fall behind; "
        "needs catae[search] (default: every combination)",
    )
    sweep.add_argument("--address", dest="runner_address", help=argparse.SUPPRESS)
    _add_settings(sweep, settings.GROUPS)
    sweep.description = (
        "Train with several values of one or more settings, and rank the results. A setting takes one value, several "
        "separated by commas, or a range. 0..4 tries each of these whole numbers. With --trials, 0.0001..0.01 searches "
        "all values between its ends. Run the same command again to resume an interrupted sweep."
    )


def _runs(commands: "Commands") -> None:
    runs = _command(
        commands,
        "runs",
        "list the runs in the output folder, newest first, with their settings and scores",
        "catae runs --output-dir artifacts",
    )
    runs.add_argument("--output-dir", type=Path, metavar="DIR", help="the folder (default: CATAE_OUTPUT_DIR)")
    _add_json(runs)


def _generate(commands: "Commands") -> None:
    generate = _command(
        commands,
        "generate",
        "decode random latents to new images",
        "catae generate --run latest --count 64 --seed 3 --prior gaussian --out new.png",
    )
    _add_run(generate)
    generate.add_argument("--count", help="number of images (default: CATAE_SAMPLES)")
    _add_samples(generate)
    _add_png(generate, "generated.png")


def _fid(commands: "Commands") -> None:
    fid = _command(
        commands,
        "fid",
        "measure the FID and KID of random samples from the test images",
        "catae fid --run latest --prior mixture",
    )
    _add_run(fid)
    _add_samples(fid)
    fid.add_argument("--weights", type=Path, help="file with Inception's weights (default: download them)")


def _interpolate(commands: "Commands") -> None:
    interpolate = _command(
        commands,
        "interpolate",
        "interpolate between two images, or draw the grid between four",
        "catae interpolate --run latest cats/17.jpg ~/tom.png --steps 50 --out tom.gif",
    )
    interpolate.add_argument("images", metavar="IMAGE", nargs="+", help=f"{IMAGE}: two, or four")
    _add_run(interpolate)
    interpolate.add_argument(
        "--steps",
        help="images of the interpolation (default: CATAE_INTERPOLATION_STEPS), or per row of the grid (default: 8)",
    )
    interpolate.add_argument(
        "--path", choices=("linear", "spherical"), default="linear", help="path through the latents (default: linear)"
    )
    interpolate.add_argument("--rows", type=int, help="rows of a PNG of two images; 1 makes a strip (default: 8 a row)")
    interpolate.add_argument(
        "--out",
        type=_animation_path,
        help="GIF, WebP, MP4 or PNG to write (default: interpolation.gif, or grid.png for four images)",
    )


def _attribute(commands: "Commands") -> None:
    attribute = _command(
        commands,
        "attribute",
        "move an image along the direction between two groups of images",
        "catae attribute cats/17.jpg --with cats/3.jpg cats/9.jpg --without cats/4.jpg ~/tom.png --out fur.png",
    )
    attribute.add_argument("image", metavar="IMAGE", help=IMAGE)
    for flag, name, text in (
        ("--with", "positives", "images that have the attribute"),
        ("--without", "negatives", "images that lack it"),
    ):
        attribute.add_argument(flag, dest=name, metavar="FILE", nargs="+", required=True, help=text)
    _add_run(attribute)
    _add_png(attribute, "attribute.png")


def _reconstruct(commands: "Commands") -> None:
    reconstruct = _command(
        commands,
        "reconstruct",
        "draw images above their reconstructions",
        "catae reconstruct --run latest ~/tom.png ~/kitty.jpg --out reconstructed.png",
    )
    reconstruct.add_argument("files", metavar="FILE", nargs="+", help=IMAGE)
    _add_run(reconstruct)
    _add_png(reconstruct, "reconstructed.png")


def _compare(commands: "Commands") -> None:
    compare = _command(
        commands,
        "compare",
        "compare runs: the settings that differ, times and scores",
        "catae compare 20261124-171815 20261125-090210 latest --html runs.html",
    )
    compare.add_argument("runs", metavar="RUN", nargs="+", help="latest, a run's id, or its folder: two or more")
    _add_json(compare)
    compare.add_argument("--html", type=Path, metavar="PAGE", help="write a page with the loss curves")


def _latents(commands: "Commands") -> None:
    latents = _command(
        commands,
        "latents",
        "draw a map of the test images' latents",
        "catae latents latest --map umap --out map.png",
    )
    latents.add_argument("run", metavar="RUN", nargs="?", default="latest", help=RUN)
    latents.add_argument(
        "--map",
        choices=("pca", "umap"),
        default="pca",
        help="principal components, or UMAP, which needs catae[umap] (default: pca)",
    )
    _add_png(latents, "latents.png")


def _export(commands: "Commands") -> None:
    export = _command(
        commands,
        "export",
        "export the model in formats that others read, with a model card",
        "catae export --run latest --format safetensors --format onnx --out cats",
    )
    _add_run(export)
    export.add_argument(
        "--format",
        dest="formats",
        choices=("safetensors", "onnx", "torch"),
        action="append",
        help="may be repeated; onnx needs catae[onnx] (default: safetensors)",
    )
    export.add_argument(
        "--out", type=Path, default=Path("exported"), metavar="FOLDER", help="folder to write (default: exported)"
    )


def _play(commands: "Commands") -> None:
    play = _command(
        commands, "play", "explore the latent space in a browser, on this machine only", "catae play latest --port 8000"
    )
    play.add_argument("run", metavar="RUN", nargs="?", default="latest", help=RUN)
    play.add_argument("--port", type=int, default=8000, help="0 selects a free port (default: 8000)")
    play.add_argument("--host", default="127.0.0.1", help="0.0.0.0 admits other machines (default: 127.0.0.1)")


def _inspect(commands: "Commands") -> None:
    inspect = _command(
        commands,
        "inspect",
        "report what a folder or archive contains, without training",
        "catae inspect cats.zip --html cats.html",
    )
    inspect.add_argument("source", metavar="SOURCE", help="as in catae train --source")
    _add_json(inspect)
    inspect.add_argument("--html", type=Path, metavar="PAGE", help="write a page with images")


def _cache(commands: "Commands") -> None:
    cache = _command(commands, "cache", "list the decoded images kept for later runs", "catae cache --clear")
    cache.add_argument("--clear", action="store_true", help="remove those that no run uses")
    _add_json(cache)


def _command(commands: "Commands", name: str, text: str, example: str) -> argparse.ArgumentParser:
    """Add a command, with its line in `catae --help` and an example in its own help."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {example}"
    )
    return command


def _add_settings(command: argparse.ArgumentParser, groups: Sequence[type["BaseModel"]]) -> None:
    for group in groups:
        flags = command.add_argument_group(str(group.__doc__).rstrip("."))
        for name, field in group.model_fields.items():
            text = f"{field.description} (default: {settings.default_in_words(name)})"
            text = text.replace("%", "%%").replace("`", "")
            # `settings` checks the values, so that a flag and a variable give the same error.
            flags.add_argument(f"--{name.replace('_', '-')}", help=text, metavar=_metavar(name))


def _metavar(name: str) -> str:
    """Return a setting's choices as {a,b,c}, or else the last word of its name."""
    field = settings.Settings.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return f"{{{','.join(get_args(field.annotation))}}}"
    return name.split("_")[-1].upper()


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", default="latest", help=RUN)


def _add_samples(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", help="seed of the samples (default: CATAE_SEED)")
    command.add_argument("--prior", metavar=_metavar("prior"), help="prior of the latents (default: CATAE_PRIOR)")


def _add_png(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--out", type=_image_path, default=Path(name), help=f"PNG to write (default: {name})")


def _add_json(command: argparse.ArgumentParser, text: str = "print JSON") -> None:
    command.add_argument("--json", action="store_true", help=text)


def _image_path(text: str, suffixes: Sequence[str] = (".png", ".gif")) -> Path:
    path = Path(text).expanduser()
    if path.suffix.lower() not in suffixes:
        raise argparse.ArgumentTypeError(f"{text} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    return path


def _animation_path(text: str) -> Path:
    return _image_path(text, (".gif", ".webp", ".mp4", ".png"))
