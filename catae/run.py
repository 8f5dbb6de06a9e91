"""A run's folder and its manifest, where everything that a run leaves behind has its name."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catae import files, machine
from catae.errors import UserError
from catae.settings import Settings

LATEST = "latest"


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
    root = settings.output_dir
    try:
        run = Run(_new_folder(root / "runs"))
        values = settings.model_dump(mode="json")
        files.write_json(
            run.settings, {name: {"value": value, "from": origins[name]} for name, value in values.items()}
        )
        files.write_json(
            run.manifest, {"id": run.id, "state": "running", "started": _now(), "machine": machine.describe()}
        )
        _point(root / LATEST, run.path)
    except OSError as error:
        raise UserError(
            f"{root} can't be written to: {error.strerror}; give another --output-dir (CATAE_OUTPUT_DIR), "
            "or the right to write there"
        ) from error
    return run


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Records in `run.json` how what is done inside ends: finished, failed or interrupted."""
    start = time.monotonic()

    def end(state: str, error: str | None = None) -> None:
        run.record(state=state, ended=_now(), seconds=round(time.monotonic() - start, 1), error=error)

    try:
        yield
    except Exception as error:
        end("failed", f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:
        end("interrupted", type(error).__name__)  # KeyboardInterrupt, or Prefect's TerminationSignal
        raise
    end("finished")


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
