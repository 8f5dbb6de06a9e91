"""The command line: `catae`, or `python -m catae`. Parse, call the library, print, and set the exit code."""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
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

MAX_CELL = 20  # characters of a cell in `catae runs`, so that the table fits a terminal of 80 columns


def main(words: Sequence[str] | None = None) -> int:
    """Run the command in `words`, by default those of the process, and return the exit code.

    0: done. 1: a bug, with its traceback, or a lost worker process, with one line on standard error. 2: an error that
    the user can fix, with one line as well. 130 and 143: interrupted.
    """
    options = arguments.parser().parse_args(words)
    hardware.limit_openblas()
    try:
        with signals.handle_signals(), _log_on_standard_error():
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
    except Exception:  # noqa: BLE001 - the outermost frame: an unexpected error is a bug, and needs its traceback
        traceback.print_exc()
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    _silence_prefect()
    given = _given(options, settings.RUN)
    # Validate before Prefect starts, which takes 10 s.
    resolved = settings.load(given)
    if options.dry_run:
        _dry_run(resolved, settings.origins(given), options.json)
        return
    if options.json:
        raise UserError("--json needs --dry-run; a run's facts are in run.json")
    files.check_writable(resolved.output_dir)
    from flows import server

    try:
        with server.use_server(resolved.output_dir, lambda: importlib.import_module("flows.train")):
            from flows.train import run_train_flow

            folder = run_train_flow(given)
    except server.Unreported as error:
        signals.exit_now(2, str(error))  # Prefect would retry each unsent event for 7 s
    print(folder / "report.html")


def _dry_run(resolved: settings.Settings, origins: Mapping[str, str], as_json: bool) -> None:
    from rich.console import Console

    from catae.pipeline import dry_run
    from catae.report import tables

    preview = dry_run.preview_run(resolved, origins)
    if as_json:
        _print_json(asdict(preview))
    else:
        Console().print(tables.to_text(dry_run.settings_table(preview)))
        print("\n".join(dry_run.facts(preview)))


def _sweep(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae.sweep import leaderboard
    from catae.sweep.plan import plan_sweep
    from catae.sweep.state import Sweep

    _silence_prefect()
    given = _given(options, settings.GROUPS)
    base = plan_sweep(given, options.trials).base
    files.check_writable(base.output_dir)
    from flows import server, task_runners

    task_runners.check(base)
    try:
        with server.use_server(base.output_dir, lambda: importlib.import_module("flows.sweep")):
            from flows.sweep import run_sweep_flow

            sweep = Sweep(run_sweep_flow(given, options.trials))
    except server.Unreported as error:
        signals.exit_now(2, str(error))
    board = leaderboard.rank_sweep(sweep)
    Console().print(leaderboard.text(board))
    print(sweep.page)
    if failed := sum(trial.state == "failed" for trial in sweep.trials()):
        raise UserError(f"{failed} of {len(sweep.trials())} runs failed; the same command tries them again")


def _fit(options: argparse.Namespace) -> None:
    from catae.pipeline import launcher, torchrun
    from catae.system.progress import console

    if os.environ.get("RANK", "0") != "0":  # one process of torchrun's logs for all
        logging.getLogger("catae").setLevel(logging.WARNING)
        console.quiet = True
    if options.folder:
        launcher.run_worker(options.folder)
        return
    given = _given(options, settings.RUN)
    resolved = settings.load(given)
    files.check_writable(resolved.output_dir)
    if new := torchrun.fit_run(resolved, settings.origins(given)):
        print(new.path)


def _silence_prefect() -> None:
    """Hide Prefect's log lines: the library's own lines report progress and errors.

    Python would also print a traceback for each log record that a lost server does not receive.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    logging.raiseExceptions = False


def _given(options: argparse.Namespace, groups: Sequence[type["BaseModel"]]) -> dict[str, str]:
    """Return the settings that were given as flags."""
    flags = {name: getattr(options, name) for group in groups for name in group.model_fields}
    return {name: value for name, value in flags.items() if value is not None}


def _serve(options: argparse.Namespace) -> None:
    settings.load()  # the runs inherit this environment
    if not os.environ.get("PREFECT_API_URL"):
        raise UserError(
            "PREFECT_API_URL is not set: start a server with `prefect server start`, and set the variable to its "
            "address, like http://127.0.0.1:4200/api"
        )
    # Replace this process, so that signals and their grace period are Prefect's.
    os.execv(sys.executable, [sys.executable, "-m", "flows.serve"])


def _runs(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae.report import run_list, tables

    resolved = settings.load({"output_dir": options.output_dir})
    runs = run_list.list_runs(resolved.output_dir)
    if options.json:
        _print_json(run_list.to_json(runs))
    elif runs:
        table = run_list.run_table(runs)
        Console().print(tables.to_text(table, dense=True, max_width=MAX_CELL))
        print(table.note)
    else:
        print(f"no runs in {resolved.output_dir} (CATAE_OUTPUT_DIR)")


def _generate(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import gallery

    given = {"samples": options.count, "seed": options.seed, "prior": options.prior}
    resolved = settings.load(given, {"samples": "--count"})
    source = run.find_trained_run(options.run, resolved.output_dir)
    gallery.draw_run_samples(source, resolved.prior, resolved.samples, resolved.seed, options.out)
    print(options.out)


def _fid(options: argparse.Namespace) -> None:
    from catae import run
    from catae.evaluation import fid

    resolved = settings.load({"prior": options.prior, "seed": options.seed})
    source = run.find_trained_run(options.run, resolved.output_dir)
    images, distances = fid.score_run(source, resolved.prior, resolved.seed, options.weights)
    print(f"from {images:,} test images, each set of as many images:")
    for name, distance in distances.items():
        print(f"{name:16}FID {distance.fid:7.2f}  KID {distance.kid:7.4f}")


def _interpolate(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import interpolate

    resolved = settings.load({"interpolation_steps": options.steps}, {"interpolation_steps": "--steps"})
    source = run.find_trained_run(options.run, resolved.output_dir)
    match len(options.images):
        case 2:
            out, steps = options.out or Path("interpolation.gif"), resolved.interpolation_steps
            interpolate.draw_run_interpolation(
                source, options.images, steps, resolved.seed, out, options.path, options.rows
            )
        case 4:
            out = options.out or Path("grid.png")
            side = resolved.interpolation_steps if options.steps else interpolate.SIDE
            interpolate.draw_run_grid(source, options.images, side, out, options.path)
        case number:
            raise UserError(f"interpolate needs two images, or four for a grid: {number} are given")
    print(out)


def _attribute(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import interpolate

    source = run.find_trained_run(options.run, settings.load().output_dir)
    interpolate.draw_run_attribute(source, options.image, options.positives, options.negatives, options.out)
    print(options.out)


def _reconstruct(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import gallery
    from catae.model import weights

    source = run.find_trained_run(options.run, settings.load().output_dir)
    model = weights.load(source.model)
    pixels = gallery.load_images(source, options.files, model.image_size)
    gallery.draw_reconstructions(model, pixels, options.out, "images")
    print(options.out)


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae.report import comparison

    compared = comparison.compare_runs(options.runs, settings.load().output_dir)
    if options.html:
        comparison.write_comparison_page(compared, options.html)
        print(options.html)
    elif options.json:
        _print_json(compared.to_dict())
    else:
        Console().print(comparison.comparison_text(compared, Console().width))


def _latents(options: argparse.Namespace) -> None:
    from catae import run
    from catae.inference import latent_map

    resolved = settings.load()
    latent_map.draw_run_map(
        run.find_trained_run(options.run, resolved.output_dir), options.map, resolved.seed, options.out
    )
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
        session = playground.open_session(source)
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"http://{host}:{listening.getsockname()[1]}/", flush=True)
        playground.serve(session, listening, playground.LOOPBACK if options.host in playground.LOOPBACK else None)


def _inspect(options: argparse.Namespace) -> None:
    from rich.console import Console

    from catae.data import ingest, split
    from catae.report import data_report

    resolved = settings.load({"source": options.source})
    image_set, report = ingest.examine(resolved.source, resolved.output_dir / "cache", resolved.image_size)
    if options.html:
        data_report.write_data_page(image_set, report, options.html)
        print(options.html)
    elif options.json:
        _print_json(report.to_dict())
    else:
        Console().print(data_report.data_report_text(report))
    # The exit code tells whether `catae train` would accept the source.
    ingest.check(report, resolved.on_reject)
    if image_set:
        split.split(image_set.keys, resolved.seed, resolved.test_fraction, resolved.validation_fraction)


def _cache(options: argparse.Namespace) -> None:
    from catae.data import image_store

    sets = image_store.cached_sets(settings.load().output_dir / "cache")
    if options.clear:
        kept = [cached for cached in sets if not image_store.remove(cached)]
        in_use = ", the rest is in use" if kept else ""
        print(f"removed {len(sets) - len(kept)} of {count(len(sets), 'set')}{in_use}")
    elif options.json:
        _print_json([asdict(cached) for cached in sets])
    else:
        for cached in sets:
            used = datetime.fromtimestamp(cached.used).strftime("%Y-%m-%d %H:%M")
            size = f"{cached.pictures:9,} images  {cached.size_bytes / 1e6:9,.1f} MB"
            print(f"{cached.path.name}  {size}  {used}  {cached.source}")
        print(f"{count(len(sets), 'set')}, {sum(cached.size_bytes for cached in sets) / 1e6:,.1f} MB")


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "sweep": _sweep,
    "fit": _fit,
    "serve": _serve,
    "runs": _runs,
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
    """Print the library's log: above the progress bar on a terminal, as plain lines elsewhere."""
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
