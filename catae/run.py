"""A run's folder and its manifest, where everything that a run leaves behind has its name."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catae import files, machine
from catae.errors import UserError
from catae.settings import HARMLESS, Settings

LATEST = "latest"
RUNNING, FINISHED = "running", "finished"


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
        self.prior = path / "prior.safetensors"
        self.curves = path / "curves.png"
        self.reconstructions = path / "reconstructions.png"
        self.generated = path / "generated.png"
        self.generated_gaussian = path / "generated-gaussian.png"
        self.interpolation = path / "interpolation.png"
        self.animation = path / "interpolation.gif"
        self.copies = path / "copies.png"
        self.report = path / "report.html"

    @property
    def id(self) -> str:
        """The folder's name: when the run began, in UTC."""
        return self.path.name

    def read(self) -> dict[str, Any]:
        """What `run.json` says."""
        manifest: dict[str, Any] = files.read_json(self.manifest)
        return manifest

    def identity(self, settings: Settings) -> str:
        """Which training it is, in one word: of the digests of data and split, and of what decides what is learned."""
        digests = self.read()["digests"]
        decisive = {name: value for name, value in settings.model_dump(mode="json").items() if name not in HARMLESS}
        return files.digest_of({"data": digests["data"], "split": digests["split"], "settings": decisive})

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
    run = _new(settings)
    _begin(run, settings, origins)
    return run


@contextmanager
def recorded(settings: Settings, origins: Mapping[str, str]) -> Iterator[Run]:
    """The run to do: an interrupted one to go on with, as `settings.resume` says, or a new one.

    How it ends is recorded in `run.json`: finished, failed or interrupted. While it lasts the run's folder is locked,
    so that no other process writes there; a process that is killed leaves no lock behind, and a run that is 'running'
    without one is dead.

    Args:
        settings: as resolved.
        origins: where each setting came from.

    Raises:
        UserError: the run that is asked for can't be gone on with, another process writes to its folder, or nothing
            can be written.
    """
    begun = time.monotonic()
    run = _to_resume(settings) or _new(settings)

    def end(state: str, error: str | None = None) -> None:
        run.record(state=state, ended=_now(), seconds=round(time.monotonic() - begun, 1), error=error)

    with _locked(run.path):
        _begin(run, settings, origins)
        try:
            yield run
        except Exception as error:
            end("failed", f"{type(error).__name__}: {error}")
            raise
        except BaseException as error:
            end("interrupted", type(error).__name__)  # KeyboardInterrupt, or Prefect's TerminationSignal
            raise
        end(FINISHED)


def state(run: Run) -> str:
    """How the run stands: 'running', 'finished', 'failed', 'interrupted', or 'killed', which it could not record."""
    said = str(run.read()["state"])
    return "killed" if said == RUNNING and not is_locked(run.path) else said


def is_locked(folder: Path) -> bool:
    """Whether a process writes to this run's folder."""
    try:
        with _locked(folder):
            return False
    except UserError:
        return True


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
    runs = settings.output_dir / "runs"
    for path in sorted(runs.iterdir(), reverse=True) if runs.is_dir() else ():
        run = Run(path)
        if run.settings.exists() and run.manifest.exists() and state(run) not in (RUNNING, FINISHED):
            return None if _changes(run, settings) else run
    return None


def _changes(run: Run, settings: Settings) -> list[str]:
    """What differs between the run's settings and these, of those that decide what is learned."""
    before = files.read_json(run.settings)
    now = settings.model_dump(mode="json")
    return [
        f"{name} was {before[name]['value']!r} and is {value!r}"
        for name, value in now.items()
        if (name not in HARMLESS or name == "source") and before.get(name, {}).get("value") != value
    ]


def _new(settings: Settings) -> Run:
    with files.telling_of(settings.output_dir):
        return Run(_new_folder(settings.output_dir / "runs"))


def _begin(run: Run, settings: Settings, origins: Mapping[str, str]) -> None:
    """Writes down that the run begins, or goes on."""
    values = {name: {"value": value, "from": origins[name]} for name, value in settings.model_dump(mode="json").items()}
    before: dict[str, Any] = {"id": run.id, "started": _now(), "attempts": 0}
    if run.manifest.exists():
        before = run.read()
    now = {"state": RUNNING, "attempts": before["attempts"] + 1, "error": None, "machine": machine.describe()}
    with files.telling_of(settings.output_dir):
        files.write_json(run.settings, values)
        files.write_json(run.manifest, before | now)
        _point(settings.output_dir / LATEST, run.path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder} is being written to by another process: wait for it, or start a new run"
            ) from error
        yield
    finally:
        os.close(descriptor)


def find(name: str, output_dir: Path) -> Run:
    """The run called `name`: 'latest', the id of a run in `output_dir`, or the path of a run's folder.

    Raises:
        UserError: there is no such run; says which there are.
    """
    places = (output_dir / name if name == LATEST else output_dir / "runs" / name, Path(name).expanduser())
    for place in places:
        if (place / "run.json").is_file():
            return Run(place.resolve())
    runs = sorted(path.name for path in (output_dir / "runs").glob("*")) if (output_dir / "runs").is_dir() else []
    known = f"there are {', '.join(runs[-3:])}" if runs else "there is none yet: `catae train` makes one"
    raise UserError(f"--run is {name!r}: no such run in {output_dir} (CATAE_OUTPUT_DIR); {known}")


def _new_folder(runs: Path) -> Path:
    """A folder that nobody else has, named by the time."""
    runs.mkdir(parents=True, exist_ok=True)
    stem = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(17, "a thousand runs began in this second", str(runs))


def _point(link: Path, target: Path) -> None:
    """Makes `link` a relative symbolic link to `target`, in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    temporary.replace(link)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
