"""A run told to MLflow or Weights & Biases, where the user asks for one of them: neither is imported otherwise.

It is told from the run's own files. So nothing is told twice, and what a server missed it gets at the next epoch.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from catae import events, sources
from catae.errors import UserError
from catae.run import Run
from catae.settings import Settings, decisive

logger = logging.getLogger(__name__)

PROJECT = "catae"  # the experiment or the project, where the library's own variable names none
LIBRARIES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
# MLflow tries a server that is gone for minutes; training would wait for it at each epoch.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Tracker(Protocol):
    """What a library has to do here. Each call may raise one of `errors` when its server can't be reached."""

    errors: tuple[type[Exception], ...]

    def begin(self, run: Run, known_as: str | None, settings: Mapping[str, Any]) -> str:
        """Begins the run, or goes on with the one `known_as`; gives what the library knows it as."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Tells the figures of an epoch."""

    def end(self, state: str, scores: Mapping[str, float], files: Sequence[Path]) -> None:
        """Tells how it ended, 'finished', 'failed' or 'interrupted', with which scores, and hands over its files."""


class MLflow:
    """MLflow's tracking server, at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME."""

    STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}  # noqa: RUF012

    def __init__(self) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.errors: tuple[type[Exception], ...] = (MlflowException, OSError)  # those of requests are OSErrors
        self.client = MlflowClient()
        self.id = ""

    def begin(self, run: Run, known_as: str | None, settings: Mapping[str, Any]) -> str:  # noqa: D102
        if known_as:
            self.client.set_terminated(known_as, "RUNNING")
        self.id = known_as or self.client.create_run(self._experiment(), run_name=run.id).info.run_id
        if not known_as:
            for name, value in settings.items():
                self.client.log_param(self.id, name, value)
        return self.id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        there = self.client.get_experiment_by_name(name)
        return str(there.experiment_id if there else self.client.create_experiment(name))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:  # noqa: D102
        for name, value in figures.items():
            self.client.log_metric(self.id, name, value, step=number)

    def end(self, state: str, scores: Mapping[str, float], files: Sequence[Path]) -> None:  # noqa: D102
        for name, value in scores.items():
            self.client.log_metric(self.id, name, value)
        for path in files:
            self.client.log_artifact(self.id, str(path))
        self.client.set_terminated(self.id, self.STATUS[state])


class WandB:
    """Weights & Biases, as its variables WANDB_* say."""

    def __init__(self) -> None:
        import wandb

        self.wandb = wandb
        self.errors: tuple[type[Exception], ...] = (wandb.errors.Error, OSError)
        self.run: Any = None

    def begin(self, run: Run, known_as: str | None, settings: Mapping[str, Any]) -> str:  # noqa: D102
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=known_as,
            name=run.id,
            config=dict(settings),
            dir=os.environ.get("WANDB_DIR", str(run.path)),
            resume="allow",
        )
        return str(self.run.id)

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:  # noqa: D102
        self.run.log(dict(figures), step=number)

    def end(self, state: str, scores: Mapping[str, float], files: Sequence[Path]) -> None:  # noqa: D102
        self.run.summary.update(dict(scores))
        for path in files:
            self.run.save(str(path), base_path=str(path.parent), policy="now")
        self.run.finish(exit_code=0 if state == "finished" else 1)


TRACKERS: dict[str, type[MLflow] | type[WandB]] = {"mlflow": MLflow, "wandb": WandB}
_under_way: dict[Path, Tracker] = {}  # by the run's folder: tasks are given paths


@contextmanager
def followed(run: Run, settings: Settings) -> Iterator[None]:
    """Tells of the run while it lasts, and how it ends; nothing where `settings.tracking` is 'none'.

    A server that is gone later on is warned of, and the run goes on.

    Raises:
        UserError: on entering: the library is missing, or its server can't be reached.
    """
    if settings.tracking == "none":
        yield
        return
    _under_way[run.path] = _begun(run, settings)
    try:
        yield
    except Exception:
        _end(run, "failed")
        raise
    except BaseException:
        _end(run, "interrupted")
        raise
    else:
        _end(run, "finished")
    finally:
        del _under_way[run.path]


def tell(run: Run) -> None:
    """Tells the epochs of the event files that haven't been told yet, if the run is followed."""
    if (tracker := _under_way.get(run.path)) is None:
        return
    said = run.read()["tracking"]
    scalars = events.read_scalars(run.events)
    try:
        for number in sorted(scalars["loss/train"]):
            if number > said["epoch"]:
                tracker.epoch(number, {tag: values[number] for tag, values in scalars.items() if number in values})
                said["epoch"] = number
    except tracker.errors as error:
        _warn("the epochs", error)
    run.record(tracking=said)


def _begun(run: Run, settings: Settings) -> Tracker:
    """A tracker that has begun the run, or goes on with it."""
    name = settings.tracking
    try:
        tracker: Tracker = TRACKERS[name]()
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"CATAE_TRACKING={name} needs the library {LIBRARIES[name]}: pip install 'catae[{name}]'"
        ) from error
    said: dict[str, Any] = run.read().get("tracking", {})
    before = said if said.get("library") == name else dict[str, Any](library=name, id=None, epoch=0)
    told = decisive(settings) | {"source": sources.label(settings.source)}
    try:
        before["id"] = tracker.begin(run, before["id"], told)
    except tracker.errors as error:
        raise UserError(
            f"{name} can't be told of the run: {_reason(error)}; see to its server, or leave out CATAE_TRACKING={name}"
        ) from error
    run.record(tracking=before)
    return tracker


def _end(run: Run, state: str) -> None:
    """Tells how the run ends, with what there is of its scores and files."""
    tracker, said = _under_way[run.path], run.read()
    if any(run.events.glob("scalars/*tfevents*")):
        tell(run)
    model = said.get("scores", {}).get("model", {})
    wanted = (run.report, run.model, run.manifest, *sorted(run.path.glob("*.png")), run.animation)
    try:
        tracker.end(
            state, {f"score/{name}": value for name, value in model.items()}, [path for path in wanted if path.exists()]
        )
    except tracker.errors as error:
        _warn("how the run ended", error)


def _warn(what: str, error: Exception) -> None:
    logger.warning("the tracking server wasn't told %s: %s; training goes on", what, _reason(error))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
