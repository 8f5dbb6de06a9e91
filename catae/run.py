"""A run's folder and its manifest, where everything that a run leaves behind has its name."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catae.errors import TrialPruned, UserError
from catae.settings import RESUME_SAFE, Settings, hyperparameters
from catae.system import files, hardware

logger = logging.getLogger(__name__)

LATEST = "latest"
RUNNING, FINISHED, KILLED, PRUNED = "running", "finished", "killed", "pruned"


class Run:
    """The folder `<output_dir>/runs/<id>`, and the paths in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "run.json"
        self.settings = path / "settings.json"
        self.data = path / "data.json"
        self.split = path / "split.json"
        self.events = path / "events"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model.safetensors"
        self.priors = path / "priors.safetensors"
        self.curves = path / "curves.png"
        self.reconstructions = path / "reconstructions.png"
        self.generated = path / "generated.png"
        self.generated_unwhitened = path / "generated-unwhitened.png"
        self.generated_gaussian = path / "generated-gaussian.png"
        self.generated_best = path / "generated-best.png"
        self.nearest = path / "nearest.png"
        self.interpolation = path / "interpolation.png"
        self.animation = path / "interpolation.gif"
        self.latents = path / "latents.png"
        self.duplicates = path / "duplicates.png"
        self.report = path / "report.html"

    @property
    def id(self) -> str:
        """The folder's name: when the run began, in UTC."""
        return self.path.name

    def read(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            UserError: it can't be read, or is something else.
        """
        return files.read_manifest(self.manifest, "run", {"state": str})

    def identity(self, settings: Settings) -> dict[str, str]:
        """Which training it is: the digests of its data, its split, and the settings that decide what is learned."""
        digests = self.read()["digests"]
        return {
            "data": digests["data"],
            "split": digests["split"],
            "settings": files.digest_of(hyperparameters(settings)),
        }

    def record(self, **facts: Any) -> None:
        """Adds facts to `run.json`, or puts them in the place of earlier ones of the same name."""
        files.write_json(self.manifest, {**self.read(), **facts})


def create(settings: Settings, origins: Mapping[str, str]) -> Run:
    """A new run's folder, with `run.json` and `settings.json` in it; `latest` points at it from now on.

    Args:
        settings: as resolved.
        origins: where each setting came from.

    Raises:
        UserError: nothing can be written to `settings.output_dir`.
    """
    with ExitStack() as held:
        return _choose(settings.model_copy(update={"resume": "never"}), origins, held)


@contextmanager
def recorded(settings: Settings, origins: Mapping[str, str]) -> Iterator[Run]:
    """The run to do: an interrupted one to go on with, as `settings.resume` says, or a new one.

    How it ends is recorded in `run.json`: finished, failed, pruned or interrupted. While it lasts the run's folder is
    locked, so that no other process writes there; a process that is killed leaves no lock behind, and a run that is
    'running' without one is dead.

    Args:
        settings: as resolved.
        origins: where each setting came from.

    Raises:
        UserError: the run that is asked for can't be gone on with, another process writes to its folder, or nothing
            can be written.
    """
    begun = time.monotonic()
    with ExitStack() as held:
        run = _choose(settings, origins, held)

        def end(state: str, error: str | None = None) -> None:
            run.record(state=state, ended=moment(), seconds=round(time.monotonic() - begun, 1), error=error)

        try:
            yield run
        except TrialPruned as error:
            end(PRUNED, str(error))
            raise
        except Exception as error:
            end("failed", f"{type(error).__name__}: {error}")
            raise
        except BaseException as error:
            end("interrupted", type(error).__name__)  # KeyboardInterrupt, or Prefect's TerminationSignal
            raise
        end(FINISHED)


def state(run: Run) -> str:
    """How the run stands: 'running', 'finished', 'failed', 'pruned', 'interrupted', or 'killed', which it can't say."""
    said = str(run.read()["state"])
    if said == RUNNING:
        with suppress(BlockingIOError), files.locked(run.path, wait=False):
            return KILLED
    return said


def _choose(settings: Settings, origins: Mapping[str, str], held: ExitStack) -> Run:
    """The run to do, locked until `held` ends. One process at a time chooses."""
    runs = settings.output_dir / "runs"
    with files.explain_os_errors(settings.output_dir):
        runs.mkdir(parents=True, exist_ok=True)
        with files.locked(runs):
            for path in runs.iterdir():
                _mark_killed(path)
            run = _to_resume(settings) or Run(new_folder(runs))
            try:
                held.enter_context(files.locked(run.path, wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"{run.path} is being written to by another process: wait for it, or start a new run"
                ) from error
            _begin(run, settings, origins)
            return run


def _mark_killed(path: Path) -> None:
    """Sees to what a killed process has left: half-written files, and a run that still calls itself running."""
    try:
        with files.locked(path, wait=False):
            files.sweep(path)
            if not any(path.iterdir()):
                path.rmdir()
            elif (run := Run(path)).read()["state"] == RUNNING:
                run.record(state=KILLED)
    except (BlockingIOError, NotADirectoryError):
        pass  # at work, or no run
    except UserError as error:
        logger.warning("%s", error)


def _to_resume(settings: Settings) -> Run | None:
    """The run to go on with, if there is one."""
    if settings.resume == "never":
        return None
    if settings.resume != "auto":
        run = find(settings.resume, settings.output_dir)
        if changed := _changes(run, settings):
            raise UserError(
                f"run {run.id} can't be gone on with, since these settings have changed: {'; '.join(changed)}; put "
                "them back, or start a new run with --resume never"
            )
        return run
    for path in sorted((settings.output_dir / "runs").iterdir(), reverse=True):
        run = Run(path)
        if not (run.manifest.is_file() and run.settings.is_file()):
            continue
        try:
            stands = state(run)
            if stands in (RUNNING, FINISHED):
                continue
            changed = _changes(run, settings)
        except UserError as error:
            logger.warning("%s; that run is left alone", error)
            continue
        if changed:
            logger.info("run %s, %s, is not gone on with: %s", run.id, stands, "; ".join(changed))
            continue
        logger.info("going on with run %s, which was %s", run.id, stands)
        return run
    return None


def _changes(run: Run, settings: Settings) -> list[str]:
    """What differs between the run's settings and these, of those that decide what is learned."""
    before = files.read_json(run.settings)
    now = settings.model_dump(mode="json")
    try:
        return [
            f"{name} was {before[name]['value']!r} and is {value!r}"
            for name, value in now.items()
            if (name not in RESUME_SAFE or name == "source") and before[name]["value"] != value
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{run.settings} doesn't hold the settings of a run of this version") from error


def _begin(run: Run, settings: Settings, origins: Mapping[str, str]) -> None:
    """Writes down that the run begins, or goes on."""
    values = {name: {"value": value, "from": origins[name]} for name, value in settings.model_dump(mode="json").items()}
    before: dict[str, Any] = {"id": run.id, "started": moment(), "attempts": 0}
    if run.manifest.exists():
        before = run.read()
    now = {
        "state": RUNNING,
        "attempts": before["attempts"] + 1,
        "error": None,
        "process": hardware.process(),
        "machine": hardware.describe(),
    }
    with files.explain_os_errors(settings.output_dir):
        files.write_json(run.manifest, before | now)
        files.write_json(run.settings, values)
        point(settings.output_dir / LATEST, run.path)


def find(name: str, output_dir: Path, argument: str = "--run") -> Run:
    """The run called `name`: 'latest', the id of a run in `output_dir`, or the path of a run's folder.

    The user named it with `argument`.

    Raises:
        UserError: there is no such run; says which there are.
    """
    places = (output_dir / name if name == LATEST else output_dir / "runs" / name, Path(name).expanduser())
    for place in places:
        if (place / "run.json").is_file():
            return Run(place.resolve())
    runs = sorted(path.name for path in (output_dir / "runs").glob("*")) if (output_dir / "runs").is_dir() else []
    known = f"there are {', '.join(runs[-3:])}" if runs else "there is none yet: `catae train` makes one"
    raise UserError(f"{argument} is {name!r}: no such run in {output_dir} (CATAE_OUTPUT_DIR); {known}")


def trained(name: str, output_dir: Path) -> Run:
    """The run called `name`, as in `find`, which has a model.

    Raises:
        UserError: there is no such run, or it has no model yet.
    """
    run = find(name, output_dir)
    if not run.model.exists():
        raise UserError(f"run {run.id} is {state(run)}, and has no model yet; name another with --run")
    return run


def new_folder(runs: Path) -> Path:
    """A folder that nobody else has, named by the time."""
    stem = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(17, "a thousand runs began in this second", str(runs))


def point(link: Path, target: Path) -> None:
    """Makes `link` a relative symbolic link to `target`, in one step; one process at a time does."""
    temporary = link.with_name(f"{files.WRITING}{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    temporary.replace(link)


def moment() -> str:
    """The time, in UTC, as the manifests have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
