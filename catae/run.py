"""The folder of a run, its files and its manifest, `run.json`."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from catae.errors import UserError
from catae.settings import Settings, hyperparameters
from catae.system import files

LATEST = "latest"
RUNNING, FINISHED, FAILED, PRUNED, INTERRUPTED, KILLED = (
    "running", "finished", "failed", "pruned", "interrupted", "killed",
)  # fmt: skip


class Run:
    """The folder `<output_dir>/runs/<id>`, with the paths of its files."""

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
        """The name of the folder: when the run began, in UTC."""
        return self.path.name

    def read(self) -> dict[str, Any]:
        """Return the content of `run.json`.

        Raises:
            UserError: the file cannot be read, or is not the manifest of a run.
        """
        return files.read_manifest(self.manifest, "run", {"state": str})

    def identity(self, settings: Settings) -> dict[str, str]:
        """Return what identifies the training: digests of the images, the split and the hyperparameters."""
        digests = self.read()["digests"]
        return {
            "data": digests["data"],
            "split": digests["split"],
            "settings": files.digest_of(hyperparameters(settings)),
        }

    def record(self, **facts: Any) -> None:
        """Add facts to `run.json`. They replace earlier ones of the same name."""
        files.write_json(self.manifest, {**self.read(), **facts})

    def state(self) -> str:
        """Return 'running', 'finished', 'failed', 'pruned', 'interrupted' or 'killed'.

        A killed process cannot record its end: a run that is recorded as running, and that no process holds the lock
        of, was killed.
        """
        recorded = str(self.read()["state"])
        if recorded == RUNNING:
            with suppress(BlockingIOError), files.locked(self.path, wait=False):
                return KILLED
        return recorded


def find_run(name: str, output_dir: Path, argument: str = "--run") -> Run:
    """Return the run called `name`.

    Args:
        name: 'latest', the id of a run in `output_dir`, or the path of a run's folder.
        output_dir: where runs are written.
        argument: where the user gave the name, for the error message.

    Raises:
        UserError: there is no such run; the message names the newest ones.
    """
    places = (output_dir / name if name == LATEST else output_dir / "runs" / name, Path(name).expanduser())
    for place in places:
        if (place / "run.json").is_file():
            return Run(place.resolve())
    runs = sorted(path.name for path in (output_dir / "runs").glob("*")) if (output_dir / "runs").is_dir() else []
    known = f"the newest are {', '.join(runs[-3:])}" if runs else "there are none yet: `catae train` creates one"
    raise UserError(f"{argument} is {name!r}: no such run in {output_dir} (CATAE_OUTPUT_DIR); {known}")


def find_trained_run(name: str, output_dir: Path) -> Run:
    """Return the run called `name`, as `find_run`, if it has a model.

    Raises:
        UserError: there is no such run, or it has no model yet.
    """
    found = find_run(name, output_dir)
    if not found.model.exists():
        raise UserError(f"run {found.id} is {found.state()} and has no model yet; choose another with --run")
    return found
