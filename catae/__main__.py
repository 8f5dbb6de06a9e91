"""The command line: `catae`, or `python -m catae`. It parses, calls, prints and sets the exit code."""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from catae import arguments, settings
from catae.errors import UserError, WorkerLost
from catae.system import files, hardware, signals
from catae.system.text import count

if TYPE_CHECKING:
    from pydantic import BaseModel


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command that `words` (those of the process, by default) ask for; gives the exit code.

    0 done; 1 an error of ours, with its traceback, or another process lost, with one line on standard error; 2 the
    user's to mend, with one line as well; 130 and 143 interrupted.
    """
    options = arguments.parser().parse_args(words)
    hardware.limit_openblas()
    try:
        with signals.on_signals(), _log_on_standard_error():
            COMMANDS[options.command](options)
    except UserError as error:
        print(f"catae: {error}", file=sys.stderr)
        return 2
    except WorkerLost as error:
        print(f"catae: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, signals.Terminated) as error:
        print("catae: interrupted", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, signals.Terminated) else signal.SIGINT)
    except Exception:  # noqa: BLE001 - the edge: what nobody foresaw is ours, and is shown whole
        traceback.print_exc()
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    _be_heard_alone()
    given = _given(options, settings.RUN)
    # What is wrong with the settings, or with where to write, is told at once, and not after Prefect's 10 s.
    resolved = settings.load(given)
    files.check_place(resolved.output_dir)
    from flows import server

    try:
        with server.use_server(resolved.output_dir, lambda: importlib.import_module("flows.train")):
            from flows.train import run_train_flow

            folder = run_train_flow(given)
    except server.Unreported as error:
        signals.at_once(2, str(error))  # Prefect would try for 7 s to send each event that it still has
    print(folder / "report.html")


def _sweep(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae.sweep import leaderboard
    from catae.sweep.plan import plan_sweep
    from catae.sweep.state import Sweep

    _be_heard_alone()
    given = _given(options, settings.GROUPS)
    base = plan_sweep(given, options.trials).base
    files.check_place(base.output_dir)
    from flows import server, task_runners

    task_runners.check(base)
    try:
        with server.use_server(base.output_dir, lambda: importlib.import_module("flows.sweep")):
            from flows.sweep import run_sweep_flow

            done = Sweep(run_sweep_flow(given, options.trials))
    except server.Unreported as error:
        signals.at_once(2, str(error))
    board = leaderboard.read(done)
    Console().print(leaderboard.text(board))
    print(done.page)
    if failed := sum(trial.state == "failed" for trial in done.trials()):
        raise UserError(f"{failed} of {len(done.trials())} runs failed; the same command tries them again")


def _fit(options: argparse.Namespace) -> None:
    from catae.pipeline import launcher, torchrun
    from catae.system.progress import console

    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes speaks for all, unless something is wrong
        logging.getLogger("catae").setLevel(logging.WARNING)
        console.quiet = True
    if options.folder:
        launcher.run_worker(options.folder)
        return
    given = _given(options, settings.RUN)
    chosen = settings.load(given)
    files.check_place(chosen.output_dir)
    if new := torchrun.fit_run(chosen, settings.origins(given)):
        print(new.path)


def _be_heard_alone() -> None:
    """Keeps Prefect's lines from the terminal: the library's own tell what happens, and of an error one line.

    So does a server that is gone: it would be told of for each line that can't be sent there.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    logging.raiseExceptions = False


def _given(options: argparse.Namespace, groups: Sequence[type["BaseModel"]]) -> dict[str, str]:
    """What the flags of these settings say, of those that were given."""
    said = {name: getattr(options, name) for group in groups for name in group.model_fields}
    return {name: value for name, value in said.items() if value is not None}


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
    from catae import run
    from catae.inference import gallery

    given = {"samples": options.count, "seed": options.seed, "prior": options.prior}
    chosen = settings.load(given, {"samples": "--count"})
    source = run.find_trained_run(options.run, chosen.output_dir)
    gallery.generate_from(source, chosen.prior, chosen.samples, chosen.seed, options.out)
    print(options.out)


def _fid(options: argparse.Namespace) -> None:
    from catae import run
    from catae.evaluation import fid

    chosen = settings.load({"prior": options.prior, "seed": options.seed})
    source = run.find_trained_run(options.run, chosen.output_dir)
    pictures, distances = fid.measure(source, chosen.prior, chosen.seed, options.weights)
    print(f"from {pictures:,} test pictures, of as many pictures each:")
    for name, distance in distances.items():
        print(f"{name:16}FID {distance.fid:7.2f}  KID {distance.kid:7.4f}")


def _interpolate(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import interpolate

    chosen = settings.load({"interpolation_steps": options.steps}, {"interpolation_steps": "--steps"})
    source = run.find_trained_run(options.run, chosen.output_dir)
    match len(options.pictures):
        case 2:
            out, steps = options.out or Path("walk.gif"), chosen.interpolation_steps
            interpolate.walk_in(source, options.pictures, steps, chosen.seed, out, options.path, options.rows)
        case 4:
            out, side = (
                options.out or Path("grid.png"),
                chosen.interpolation_steps if options.steps else interpolate.SIDE,
            )
            interpolate.grid_in(source, options.pictures, side, out, options.path)
        case number:
            raise UserError(f"a walk is between two pictures, and a grid between four: {number} are named")
    print(out)


def _attribute(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import interpolate

    source = run.find_trained_run(options.run, settings.load().output_dir)
    interpolate.attribute_in(source, options.picture, options.positives, options.negatives, options.out)
    print(options.out)


def _reconstruct(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import gallery
    from catae.model import weights

    source = run.find_trained_run(options.run, settings.load().output_dir)
    model = weights.load(source.model)
    pixels = gallery.pictures(source, options.files, model.image_size)
    gallery.restore(model, pixels, options.out, "pictures")
    print(options.out)


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae.report import comparison

    compared = comparison.compare(options.runs, settings.load().output_dir)
    if options.html:
        comparison.write_html(compared, options.html)
        print(options.html)
    elif options.json:
        print(json.dumps(compared.to_dict(), indent=2, ensure_ascii=False))
    else:
        Console().print(comparison.text(compared, Console().width))


def _latents(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import latent_map

    chosen = settings.load()
    latent_map.draw(run.find_trained_run(options.run, chosen.output_dir), options.map, chosen.seed, options.out)
    print(options.out)


def _export(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import export

    source = run.find_trained_run(options.run, settings.load().output_dir)
    export.export(source, options.formats or ["safetensors"], options.out)
    print(options.out)


def _play(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import playground

    source = run.find_trained_run(options.run, settings.load().output_dir)
    with playground.listen(options.host, options.port) as listening:
        toy = playground.open_run(source)
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"http://{host}:{listening.getsockname()[1]}/", flush=True)
        playground.serve(toy, listening, playground.LOOPBACK if options.host in playground.LOOPBACK else None)


def _inspect(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae.data import ingest
    from catae.report import data_report

    chosen = settings.load({"source": options.source})
    image_set, report = ingest.read(chosen.source, chosen.output_dir / "cache", chosen.image_size, chosen.on_reject)
    if options.html:
        data_report.write_html(image_set, report, options.html)
        print(options.html)
    elif options.json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        Console().print(data_report.text(report))


def _cache(options: argparse.Namespace) -> None:
    from catae.data import cache

    there = cache.sets(settings.load().output_dir / "cache")
    if options.clear:
        kept = [cached for cached in there if not cache.remove(cached)]
        print(
            f"removed {len(there) - len(kept)} of {count(len(there), 'set')}" + (", the rest is in use" if kept else "")
        )
    elif options.json:
        print(json.dumps([asdict(cached) for cached in there], indent=2, default=str))
    else:
        for cached in there:
            used = datetime.fromtimestamp(cached.used).strftime("%Y-%m-%d %H:%M")
            size = f"{cached.pictures:9,} pictures  {cached.size_bytes / 1e6:9,.1f} MB"
            print(f"{cached.path.name}  {size}  {used}  {cached.source}")
        print(f"{count(len(there), 'set')}, {sum(cached.size_bytes for cached in there) / 1e6:,.1f} MB")


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "sweep": _sweep,
    "fit": _fit,
    "serve": _serve,
    "generate": _generate,
    "fid": _fid,
    "interpolate": _interpolate,
    "attribute": _attribute,
    "reconstruct": _reconstruct,
    "compare": _compare,
    "latents": _latents,
    "export": _export,
    "play": _play,
    "inspect": _inspect,
    "cache": _cache,
}


@contextmanager
def _log_on_standard_error() -> Iterator[None]:
    """Shows what the library logs: above the progress bar on a terminal, as plain lines elsewhere."""
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    from catae.system.progress import console

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
