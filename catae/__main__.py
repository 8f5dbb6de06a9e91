"""The command line: `catae`, or `python -m catae`. It parses, calls, prints and sets the exit code."""

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from catae import files, machine, settings
from catae.errors import UserError

PATIENCE = 5.0  # seconds between the first signal to end and the end
RUN_HELP = "the run whose model to use: latest, its id, or its folder (default: latest)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that `arguments` (those of the process, by default) ask for; gives the exit code.

    0 done; 1 an error of ours, with its traceback; 2 the user's to mend, with one line on standard error; 130
    and 143 interrupted.
    """
    options = _parser().parse_args(arguments)
    machine.limit_openblas()
    try:
        with _ending_on_signals(), _log_on_standard_error():
            options.command(options)
    except UserError as error:
        print(f"catae: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Terminated) as error:
        print("catae: interrupted", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    except Exception:  # noqa: BLE001 - the edge: what nobody foresaw is ours, and is shown whole
        traceback.print_exc()
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    # Here the library's own lines tell what happens; Prefect's would say it again, and of an error a traceback.
    # So does a server that is gone: it would be told of for each line that can't be sent there.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    logging.raiseExceptions = False
    given = {name: value for name in settings.Settings.model_fields if (value := getattr(options, name)) is not None}
    # What is wrong with the settings, or with where to write, is told at once, and not after Prefect's 10 s.
    resolved = settings.load(given)
    files.check_place(resolved.output_dir)
    from flows import server

    try:
        with server.spoken_to(resolved.output_dir):
            from flows.train import once

            folder = once(given)
    except server.Unreported as error:
        _end_at_once(2, str(error))  # Prefect would try for 7 s to send each event that it still has
    print(folder / "report.html")


def _serve(options: argparse.Namespace) -> None:
    settings.load()  # the runs' environment is this one
    if not os.environ.get("PREFECT_API_URL"):
        raise UserError(
            "PREFECT_API_URL names no server whose runs to serve: start one with `prefect server start`, and set it to "
            "http://127.0.0.1:4200/api"
        )
    # In this one's place: signals and their grace time are Prefect's there.
    os.execv(sys.executable, [sys.executable, "-m", "flows.serve"])


def _generate(options: argparse.Namespace) -> None:
    from catae import gallery, run

    given = {"samples": options.count, "seed": options.seed, "prior": options.prior}
    chosen = settings.load(given, {"samples": "--count"})
    source = run.trained(options.run, chosen.output_dir)
    gallery.generate_from(source, chosen.prior, chosen.samples, chosen.seed, options.out)
    print(options.out)


def _fid(options: argparse.Namespace) -> None:
    from catae import inception, run

    chosen = settings.load({"prior": options.prior, "seed": options.seed})
    source = run.trained(options.run, chosen.output_dir)
    pictures, distances = inception.measure(source, chosen.prior, chosen.seed, options.weights)
    print(f"from {pictures:,} test pictures, of as many pictures each:")
    for name, distance in distances.items():
        print(f"{name:16}FID {distance.fid:7.2f}  KID {distance.kid:7.4f}")


def _interpolate(options: argparse.Namespace) -> None:
    from catae import run, walks

    chosen = settings.load({"interpolation_steps": options.steps}, {"interpolation_steps": "--steps"})
    source = run.trained(options.run, chosen.output_dir)
    match len(options.pictures):
        case 2:
            out, steps = options.out or Path("walk.gif"), chosen.interpolation_steps
            walks.walk_in(source, options.pictures, steps, chosen.seed, out, options.path, options.rows)
        case 4:
            out, side = options.out or Path("grid.png"), chosen.interpolation_steps if options.steps else walks.SIDE
            walks.grid_in(source, options.pictures, side, out, options.path)
        case number:
            raise UserError(f"a walk is between two pictures, and a grid between four: {number} are named")
    print(out)


def _attribute(options: argparse.Namespace) -> None:
    from catae import run, walks

    source = run.trained(options.run, settings.load().output_dir)
    walks.attribute_in(source, options.picture, options.having, options.lacking, options.out)
    print(options.out)


def _reconstruct(options: argparse.Namespace) -> None:
    from catae import gallery, run, weights

    source = run.trained(options.run, settings.load().output_dir)
    model = weights.load(source.model)
    pixels = gallery.pictures(source, options.files, model.image_size)
    gallery.restore(model, pixels, options.out, "pictures")
    print(options.out)


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae import comparison

    compared = comparison.compare(options.runs, settings.load().output_dir)
    if options.html:
        comparison.write_html(compared, options.html)
        print(options.html)
    elif options.json:
        print(json.dumps(compared.to_dict(), indent=2, ensure_ascii=False))
    else:
        Console().print(comparison.text(compared, Console().width))


def _latents(options: argparse.Namespace) -> None:
    from catae import atlas, run

    chosen = settings.load()
    atlas.draw(run.trained(options.run, chosen.output_dir), options.map, chosen.seed, options.out)
    print(options.out)


def _inspect(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae import inspection, store

    chosen = settings.load({"source": options.source})
    image_set, report = store.read(chosen.source, chosen.output_dir / "cache", chosen.image_size, chosen.on_reject)
    if options.html:
        inspection.write_html(image_set, report, options.html)
        print(options.html)
    elif options.json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        Console().print(inspection.text(report))


def _cache(options: argparse.Namespace) -> None:
    from catae import cache

    there = cache.sets(settings.load().output_dir / "cache")
    if options.clear:
        kept = [cached for cached in there if not cache.remove(cached)]
        print(f"removed {len(there) - len(kept)} of {len(there)} sets" + (", the rest is in use" if kept else ""))
    elif options.json:
        print(json.dumps([asdict(cached) for cached in there], indent=2, default=str))
    else:
        for cached in there:
            used = datetime.fromtimestamp(cached.used).strftime("%Y-%m-%d %H:%M")
            size = f"{cached.pictures:9,} pictures  {cached.size_bytes / 1e6:9,.1f} MB"
            print(f"{cached.path.name}  {size}  {used}  {cached.source}")
        print(f"{len(there)} sets, {sum(cached.size_bytes for cached in there) / 1e6:,.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "catae",
        description="Train a convolutional autoencoder on small pictures, on a CPU, and see what it learned.",
        epilog="example: catae train --source cats.zip",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {example}"
        )
        added.set_defaults(command=run)
        return added

    train = command(
        "train", _train, "run the whole job: read, split, train, show, report",
        "catae train --source cats.zip --max-epochs 20",
    )  # fmt: skip
    for group in settings.GROUPS:
        flags = train.add_argument_group(str(group.__doc__).rstrip("."))
        for name, field in group.model_fields.items():
            text = f"{field.description} (default: {field.default!s})".replace("%", "%%").replace("`", "")
            flags.add_argument(f"--{name.replace('_', '-')}", help=text, metavar=name.split("_")[-1].upper())

    command("serve", _serve, "run what a Prefect server asks for, on this machine", "catae serve")

    generate = command(
        "generate", _generate, "draw new pictures from random latents",
        "catae generate --run latest --count 64 --seed 3 --prior gaussian --out new.png",
    )  # fmt: skip
    generate.add_argument("--run", default="latest", help=RUN_HELP)
    generate.add_argument("--count", help="how many pictures (default: CATAE_SAMPLES)")
    generate.add_argument("--seed", help="another seed draws others (default: CATAE_SEED)")
    generate.add_argument("--prior", help="randn, gaussian, mixture or neighbours (default: CATAE_PRIOR)")
    generate.add_argument("--out", type=_picture_path, default=Path("generated.png"), help="the PNG to write")

    fid = command(
        "fid", _fid, "measure how far new pictures are from test pictures, as the literature does",
        "catae fid --run latest --prior mixture",
    )  # fmt: skip
    fid.add_argument("--run", default="latest", help=RUN_HELP)
    fid.add_argument("--prior", help="as for catae generate (default: CATAE_PRIOR)")
    fid.add_argument("--seed", help="another seed draws others (default: CATAE_SEED)")
    fid.add_argument("--weights", type=Path, help="the file of Inception's weights (default: they are downloaded)")

    interpolate = command(
        "interpolate", _interpolate, "draw the walk between two pictures, or the grid between four",
        "catae interpolate --run latest cats/17.jpg ~/tom.png --steps 50 --out walk.gif",
    )  # fmt: skip
    interpolate.add_argument(
        "pictures", metavar="PICTURE", nargs="+", help="a test picture's name, or a picture's path: two, or four"
    )
    interpolate.add_argument("--run", default="latest", help=RUN_HELP)
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

    attribute = command(
        "attribute", _attribute, "draw a picture with less and more of what tells two groups apart",
        "catae attribute cats/17.jpg --with cats/3.jpg cats/9.jpg --without cats/4.jpg ~/tom.png --out fur.png",
    )  # fmt: skip
    attribute.add_argument("picture", metavar="PICTURE", help="a test picture's name, or a picture's path")
    attribute.add_argument(
        "--with", dest="having", metavar="FILE", nargs="+", required=True, help="such pictures, that have something"
    )
    attribute.add_argument(
        "--without", dest="lacking", metavar="FILE", nargs="+", required=True, help="others, that lack it"
    )
    attribute.add_argument("--run", default="latest", help=RUN_HELP)
    attribute.add_argument("--out", type=_picture_path, default=Path("attribute.png"), help="the PNG to write")

    reconstruct = command(
        "reconstruct", _reconstruct, "draw pictures over their restorations",
        "catae reconstruct --run latest ~/tom.png ~/kitty.jpg --out restored.png",
    )  # fmt: skip
    reconstruct.add_argument("files", metavar="FILE", nargs="+", help="a test picture's name, or a picture's path")
    reconstruct.add_argument("--run", default="latest", help=RUN_HELP)
    reconstruct.add_argument("--out", type=_picture_path, default=Path("restored.png"), help="the PNG to write")

    compare = command(
        "compare", _compare, "show runs beside each other: settings that differ, times and scores",
        "catae compare 20261124-171815 20261125-090210 latest --html runs.html",
    )  # fmt: skip
    compare.add_argument("runs", metavar="RUN", nargs="+", help="latest, a run's id, or its folder: two or more")
    compare.add_argument("--json", action="store_true", help="for machines")
    compare.add_argument("--html", type=Path, metavar="PAGE", help="a page with the loss curves to write")

    latents = command(
        "latents", _latents, "draw a map of the latents of test pictures",
        "catae latents latest --map umap --out map.png",
    )  # fmt: skip
    latents.add_argument("run", metavar="RUN", nargs="?", default="latest", help=RUN_HELP)
    latents.add_argument(
        "--map", choices=("pca", "umap"), default="pca",
        help="principal components, or UMAP, which keeps neighbours near and needs catae[umap] (default: pca)",
    )  # fmt: skip
    latents.add_argument("--out", type=_picture_path, default=Path("latents.png"), help="the PNG to write")

    inspect = command(
        "inspect", _inspect, "report what a folder or an archive holds, without training",
        "catae inspect cats.zip --html cats.html",
    )  # fmt: skip
    inspect.add_argument("source", metavar="SOURCE", help="as for catae train --source")
    inspect.add_argument("--json", action="store_true", help="for machines")
    inspect.add_argument("--html", type=Path, metavar="PAGE", help="a page with pictures to write")

    cache = command("cache", _cache, "list the decoded pictures that are kept for later runs", "catae cache --clear")
    cache.add_argument("--clear", action="store_true", help="remove those that no run uses")
    cache.add_argument("--json", action="store_true", help="for machines")
    return parser


def _picture_path(text: str, kinds: Sequence[str] = (".png", ".gif")) -> Path:
    path = Path(text).expanduser()
    if path.suffix.lower() not in kinds:
        raise argparse.ArgumentTypeError(f"{text} should end in {', '.join(kinds[:-1])} or {kinds[-1]}")
    return path


def _walk_path(text: str) -> Path:
    return _picture_path(text, (".gif", ".webp", ".mp4", ".png"))


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Ends the process at a second SIGINT or SIGTERM at once, and 5 s after the first, whatever still waits then.

    Everything is on the disk at any time, and Prefect may wait for minutes for a server that got the signal as well.
    It replaces the handlers of signals; the numbers that Python writes to a pipe come here all the same.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        ending = _next_ending(reader)
        if ending is None:
            return
        reader.settimeout(PATIENCE)
        with suppress(TimeoutError):
            if _next_ending(reader) is None:
                return
        _end_at_once(128 + ending, "interrupted")

    watcher = threading.Thread(target=watch, daemon=True)
    pipe_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handler_before = signal.signal(signal.SIGTERM, _terminate)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler_before)
        signal.set_wakeup_fd(pipe_before)
        writer.close()
        watcher.join()
        reader.close()


def _end_at_once(code: int, why: str) -> NoReturn:
    """Ends this process and those that it has started: Prefect's embedded server would stay behind, for ever."""
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGTERM)
    os.write(sys.stderr.fileno(), f"catae: {why}\n".encode())
    os._exit(code)


def _next_ending(reader: socket.socket) -> int | None:
    """The next SIGINT or SIGTERM that comes through the pipe of signals; None when the command has ended."""
    while received := reader.recv(1):
        if received[0] in (signal.SIGINT, signal.SIGTERM):
            return received[0]
    return None


class Terminated(BaseException):
    """SIGTERM came."""


def _terminate(number: int, frame: object) -> None:
    raise Terminated


@contextmanager
def _log_on_standard_error() -> Iterator[None]:
    """Shows what the library logs: above the progress bar on a terminal, as plain lines elsewhere."""
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    from catae.progress import console

    handler: logging.Handler = logging.StreamHandler()
    if console.is_terminal:
        handler = RichHandler(
            console=console, show_time=False, show_path=False, show_level=False, highlighter=NullHighlighter()
        )
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("catae")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
