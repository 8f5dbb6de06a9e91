"""A run told to MLflow or Weights & Biases, where the user asks for one of them: neither is imported otherwise.

It is told from the run's own files. So nothing is told twice, and what a server missed it gets at a later epoch.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from catae import run
from catae.data import sources
from catae.errors import UserError
from catae.run import Run
from catae.settings import Settings, hyperparameters
from catae.system import files
from catae.training import tensorboard
from catae.training.metrics import Epoch

logger = logging.getLogger(__name__)

PROJECT = "catae"  # the experiment or the project, where the library's own variable names none
LIBRARIES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
# What the libraries' own variables say where the user has set none. MLflow tries a server that is gone for minutes, and
# training would wait for it at each epoch; W&B waits for one at the end for ever. Neither need report to its makers.
VARIABLES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_FINISH_TIMEOUT": "60",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    "WANDB_ERROR_REPORTING": "false",
}
REST = 10  # times as long as it took to find the server gone, it isn't asked again


class Tracker(Protocol):
    """What a library has to do here. Each call may raise one of `errors` when its server can't be reached."""

    errors: tuple[type[Exception], ...]

    def begin(self, run: Run, known_as: str | None, settings: Mapping[str, Any]) -> str:
        """Begins the run, or goes on with the one `known_as`; gives what the library knows it as."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Tells the figures of an epoch."""

    def end(self, state: str, scores: Mapping[str, float], paths: Sequence[Path]) -> None:
        """Tells in which of `run.json`'s states it ended, with which scores, and hands over its files."""


class MLflow:
    """MLflow's tracking server, at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME."""

    def __init__(self) -> None:
        from mlflow import MlflowClient, entities
        from mlflow.exceptions import MlflowException

        self.errors: tuple[type[Exception], ...] = (MlflowException, OSError)  # those of requests are OSErrors
        self.entities: Any = entities
        self.client: Any = MlflowClient()
        self.id = ""

    def begin(self, run: Run, known_as: str | None, settings: Mapping[str, Any]) -> str:  # noqa: D102
        if known_as:
            self.id = known_as
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(self._experiment(), run_name=run.id).info.run_id
            told = [self.entities.Param(name, str(value)) for name, value in settings.items()]
            self.client.log_batch(self.id, params=told)
        return self.id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        there = self.client.get_experiment_by_name(name)
        return str(there.experiment_id if there else self.client.create_experiment(name))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:  # noqa: D102
        now = round(time.time() * 1000)
        self.client.log_batch(
            self.id, metrics=[self.entities.Metric(name, value, now, number) for name, value in figures.items()]
        )

    def end(self, state: str, scores: Mapping[str, float], paths: Sequence[Path]) -> None:  # noqa: D102
        self.epoch(0, scores)
        for path in paths:
            self.client.log_artifact(self.id, str(path))
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")  # pruned, or interrupted
        self.client.set_terminated(self.id, status)


class WandB:
    """Weights & Biases, as its variables WANDB_* say."""

    # Not by its own `sync_tensorboard`, which would replace only `epoch`, and which sends the images of the event files
    # as well. Its steps count those messages and not epochs, its tags get the prefix `scalars/`, and it sees only what
    # this process writes, not what the processes do that torchrun starts. MLflow needs `Tracker` anyway.

    def __init__(self) -> None:
        import wandb

        self.wandb: Any = wandb
        self.errors: tuple[type[Exception], ...] = (wandb.errors.Error, OSError)  # a TimeoutError is one
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

    def end(self, state: str, scores: Mapping[str, float], paths: Sequence[Path]) -> None:  # noqa: D102
        self.run.summary.update(dict(scores))
        for path in paths:
            self.run.save(str(path), base_path=str(path.parent), policy="now")
        self.run.finish(exit_code=0 if state in ("finished", "pruned") else 1)


TRACKERS: dict[str, type[MLflow] | type[WandB]] = {"mlflow": MLflow, "wandb": WandB}


@dataclass
class Followed:
    """A run that lasts, and what is told of it.

    Attributes:
        run: the run.
        tracker: has begun it.
        not_before: when, on the monotonic clock, its server may be asked again.
    """

    run: Run
    tracker: Tracker
    not_before: float = 0.0


_under_way: dict[Path, Followed] = {}  # by the run's folder: tasks are given paths


@contextmanager
def recorded(settings: Settings, origins: Mapping[str, str]) -> Iterator[Run]:
    """What `run.recorded` does, told to what `settings.tracking` names, from its beginning to how it ended.

    A server that is gone later on is warned of, and the run goes on.

    Args:
        settings: as resolved.
        origins: where each setting came from.

    Raises:
        UserError: as `run.recorded` does; or, before anything is done, the library is missing or its server can't be
            reached.
    """
    tracker = _tracker(settings.tracking)
    with ExitStack() as last, run.recorded(settings, origins) as new:
        if tracker:
            _begin(new, tracker, settings)
            last.enter_context(_followed(new, tracker))  # ended when run.json says how the run has ended
        yield new


def telling(run: Run, after_epoch: Callable[[Epoch, int], None]) -> Callable[[Epoch, int], None]:
    """An `after_epoch` as `training.fit` takes it, which tells the epoch as well."""

    def both(epoch: Epoch, max_epochs: int) -> None:
        after_epoch(epoch, max_epochs)
        tell(run)

    return both


def tell(run: Run) -> None:
    """Tells the epochs of the event files that haven't been told yet, if the run is followed."""
    followed = _under_way.get(run.path)
    if followed is None or time.monotonic() < followed.not_before:
        return
    start = time.monotonic()
    try:
        _tell_epochs(followed)
    except followed.tracker.errors as error:
        _warn(run, "the epochs", error)
        followed.not_before = time.monotonic() + REST * (time.monotonic() - start)


def _tracker(name: str) -> Tracker | None:
    if name == "none":
        return None
    for variable, value in VARIABLES.items():
        os.environ.setdefault(variable, value)
    try:
        return TRACKERS[name]()
    except ImportError as error:
        raise UserError(
            f"CATAE_TRACKING={name} needs {LIBRARIES[name]}, which can't be imported ({error}): "
            f"pip install 'catae[{name}]'"
        ) from error


def _begin(run: Run, tracker: Tracker, settings: Settings) -> None:
    """Begins the run, or goes on with what it is known as."""
    before = run.read().get("tracking")
    if not before or before["library"] != settings.tracking:
        before = {"library": settings.tracking, "id": None, "epoch": 0}
    told = hyperparameters(settings) | {"source": sources.label(settings.source)}
    try:
        known_as = tracker.begin(run, before["id"], told)
    except tracker.errors as error:
        raise UserError(
            f"{settings.tracking} can't be told of the run: {_reason(error)}; see to its server, or leave out "
            f"CATAE_TRACKING={settings.tracking}"
        ) from error
    run.record(tracking=before | {"id": known_as})


@contextmanager
def _followed(run: Run, tracker: Tracker) -> Iterator[None]:
    followed = _under_way[run.path] = Followed(run, tracker)
    try:
        yield
    finally:
        del _under_way[run.path]
        with suppress(BlockingIOError), files.locked(run.path, wait=False):  # who has it goes on, and tells the rest
            _end(followed)


def _tell_epochs(followed: Followed) -> None:
    if not any(followed.run.events.glob("scalars/*tfevents*")):
        return
    said = followed.run.read()["tracking"]
    scalars = tensorboard.read_scalars(followed.run.events)
    try:
        for number in sorted(scalars.get("loss/train", {})):
            if number > said["epoch"]:
                figures = {tag: values[number] for tag, values in scalars.items() if number in values}
                followed.tracker.epoch(number, figures)
                said["epoch"] = number
    finally:
        followed.run.record(tracking=said)


def _end(followed: Followed) -> None:
    """Tells how the run has ended, with what there is of its scores and files."""
    run, said = followed.run, followed.run.read()
    scores = {f"score/{name}": value for name, value in said.get("scores", {}).get("model", {}).items()}
    wanted = (run.report, run.model, run.manifest, *sorted(run.path.glob("*.png")), run.animation)
    try:
        _tell_epochs(followed)
        followed.tracker.end(said["state"], scores, [path for path in wanted if path.exists()])
    except followed.tracker.errors as error:
        _warn(run, "how it ended", error)


def _warn(run: Run, what: str, error: Exception) -> None:
    logger.warning("run %s goes on, but its tracking server wasn't told %s: %s", run.id, what, _reason(error))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
