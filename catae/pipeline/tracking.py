"""Log a run to MLflow or Weights & Biases, if the user asks for one. Otherwise neither library is imported.

What is logged comes from the run's own files. So nothing is logged twice, and epochs that a server missed are logged at
a later epoch.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from catae.data import sources
from catae.errors import UserError
from catae.pipeline import lifecycle
from catae.run import Run
from catae.settings import Settings, hyperparameters
from catae.system import files
from catae.training import tensorboard
from catae.training.metrics import Epoch

logger = logging.getLogger(__name__)

PROJECT = "catae"  # the experiment or project, unless a variable of the library names one
LIBRARIES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
# Defaults for variables of the libraries. With its own defaults, MLflow retries for minutes at each epoch while a
# server is unreachable, and W&B waits without limit at the end. Both libraries would send usage data to their makers.
VARIABLES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_FINISH_TIMEOUT": "60",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    "WANDB_ERROR_REPORTING": "false",
}
BACKOFF = 10  # after a failure, the server is left alone for this many times as long as the failure took


class Tracker(Protocol):
    """Log one run. Each method may raise one of `errors` when the server cannot be reached."""

    errors: tuple[type[Exception], ...]

    def begin(self, run: Run, tracking_id: str | None, settings: Mapping[str, Any]) -> str:
        """Create a run on the server, or resume the one with `tracking_id`; return the server's id of the run."""

    def log_epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch."""

    def end(self, state: str, scores: Mapping[str, float], paths: Sequence[Path]) -> None:
        """Log the final state, as in `run.json`, and the scores, and upload files."""


class MLflow:
    """Log to the MLflow server at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME."""

    def __init__(self) -> None:
        from mlflow import MlflowClient, entities
        from mlflow.exceptions import MlflowException

        self.errors: tuple[type[Exception], ...] = (MlflowException, OSError)  # errors of requests are OSErrors
        self.entities: Any = entities
        self.client: Any = MlflowClient()
        self.id = ""

    def begin(self, run: Run, tracking_id: str | None, settings: Mapping[str, Any]) -> str:  # noqa: D102
        if tracking_id:
            self.id = tracking_id
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(self._experiment(), run_name=run.id).info.run_id
            params = [self.entities.Param(name, str(value)) for name, value in settings.items()]
            self.client.log_batch(self.id, params=params)
        return self.id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    def log_epoch(self, number: int, metrics: Mapping[str, float]) -> None:  # noqa: D102
        now = round(time.time() * 1000)
        self.client.log_batch(
            self.id, metrics=[self.entities.Metric(name, value, now, number) for name, value in metrics.items()]
        )

    def end(self, state: str, scores: Mapping[str, float], paths: Sequence[Path]) -> None:  # noqa: D102
        self.log_epoch(0, scores)
        for path in paths:
            self.client.log_artifact(self.id, str(path))
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")  # pruned or interrupted
        self.client.set_terminated(self.id, status)


class WandB:
    """Log to Weights & Biases, as configured by its variables WANDB_*."""

    # Not by its own `sync_tensorboard`, which would replace only `epoch`, and which sends the images of the event files
    # as well. Its steps count those messages and not epochs, its tags get the prefix `scalars/`, and it sees only what
    # this process writes, not what the processes do that torchrun starts. MLflow needs `Tracker` anyway.

    def __init__(self) -> None:
        import wandb

        self.wandb: Any = wandb
        self.errors: tuple[type[Exception], ...] = (wandb.errors.Error, OSError)  # a TimeoutError is an OSError
        self.run: Any = None

    def begin(self, run: Run, tracking_id: str | None, settings: Mapping[str, Any]) -> str:  # noqa: D102
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=tracking_id,
            name=run.id,
            config=dict(settings),
            dir=os.environ.get("WANDB_DIR", str(run.path)),
            resume="allow",
        )
        return str(self.run.id)

    def log_epoch(self, number: int, metrics: Mapping[str, float]) -> None:  # noqa: D102
        self.run.log(dict(metrics), step=number)

    def end(self, state: str, scores: Mapping[str, float], paths: Sequence[Path]) -> None:  # noqa: D102
        self.run.summary.update(dict(scores))
        for path in paths:
            self.run.save(str(path), base_path=str(path.parent), policy="now")
        self.run.finish(exit_code=0 if state in ("finished", "pruned") else 1)


TRACKERS: dict[str, type[MLflow] | type[WandB]] = {"mlflow": MLflow, "wandb": WandB}


@dataclass
class Tracked:
    """A run that is open and is logged to a server.

    Attributes:
        run: the run.
        tracker: its `begin` has been called.
        not_before: when the server may be contacted again, on the monotonic clock.
    """

    run: Run
    tracker: Tracker
    not_before: float = 0.0


_open: dict[Path, Tracked] = {}  # by the folder of the run, since Prefect's tasks take paths


@contextmanager
def open_tracked_run(settings: Settings, origins: Mapping[str, str]) -> Iterator[Run]:
    """Resume or create a run, as `lifecycle.open_run`, and log it to the library that `settings.tracking` names.

    If the server becomes unreachable later, a warning is logged and the run continues.

    Args:
        settings: as resolved.
        origins: where each setting was set.

    Raises:
        UserError: as `lifecycle.open_run`; or the library is missing, or its server cannot be reached at the start.
    """
    tracker = _create_tracker(settings.tracking)
    with ExitStack() as stack, lifecycle.open_run(settings, origins) as run:
        if tracker:
            _begin(run, tracker, settings)
            stack.enter_context(_track(run, tracker))  # ends after `open_run` has recorded how the run ended
        yield run


def with_tracking(run: Run, after_epoch: Callable[[Epoch, int], None]) -> Callable[[Epoch, int], None]:
    """Return an `after_epoch`, as `trainer.fit` takes it, that also logs the epoch to the server."""

    def after_epoch_and_log(epoch: Epoch, max_epochs: int) -> None:
        after_epoch(epoch, max_epochs)
        log_epochs(run)

    return after_epoch_and_log


def log_epochs(run: Run) -> None:
    """Log the epochs of the event files that have not been logged yet, if the run is tracked."""
    tracked = _open.get(run.path)
    if tracked is None or time.monotonic() < tracked.not_before:
        return
    start = time.monotonic()
    try:
        _log_new_epochs(tracked)
    except tracked.tracker.errors as error:
        _warn(run, "epochs", error)
        tracked.not_before = time.monotonic() + BACKOFF * (time.monotonic() - start)


def _create_tracker(name: str) -> Tracker | None:
    if name == "none":
        return None
    for variable, value in VARIABLES.items():
        os.environ.setdefault(variable, value)
    try:
        return TRACKERS[name]()
    except ImportError as error:
        raise UserError(
            f"CATAE_TRACKING={name} needs {LIBRARIES[name]}, which cannot be imported ({error}): "
            f"pip install 'catae[{name}]'"
        ) from error


def _begin(run: Run, tracker: Tracker, settings: Settings) -> None:
    """Create the run on the server, or resume it there."""
    tracking = run.read().get("tracking")
    if not tracking or tracking["library"] != settings.tracking:
        tracking = {"library": settings.tracking, "id": None, "epoch": 0}
    values = hyperparameters(settings) | {"source": sources.label(settings.source)}
    try:
        tracking_id = tracker.begin(run, tracking["id"], values)
    except tracker.errors as error:
        raise UserError(
            f"cannot log the run to {settings.tracking}: {_reason(error)}; check its server, or remove "
            f"CATAE_TRACKING={settings.tracking}"
        ) from error
    run.record(tracking=tracking | {"id": tracking_id})


@contextmanager
def _track(run: Run, tracker: Tracker) -> Iterator[None]:
    tracked = _open[run.path] = Tracked(run, tracker)
    try:
        yield
    finally:
        del _open[run.path]
        # A process that has locked the run meanwhile has resumed it, and logs the rest.
        with suppress(BlockingIOError), files.locked(run.path, wait=False):
            _end(tracked)


def _log_new_epochs(tracked: Tracked) -> None:
    if not any(tracked.run.events.glob("scalars/*tfevents*")):
        return
    tracking = tracked.run.read()["tracking"]
    scalars = tensorboard.read_scalars(tracked.run.events)
    try:
        for number in sorted(scalars.get("loss/train", {})):
            if number > tracking["epoch"]:
                metrics = {tag: values[number] for tag, values in scalars.items() if number in values}
                tracked.tracker.log_epoch(number, metrics)
                tracking["epoch"] = number
    finally:
        tracked.run.record(tracking=tracking)


def _end(tracked: Tracked) -> None:
    """Log how the run ended, with the scores and files that it has."""
    run, manifest = tracked.run, tracked.run.read()
    scores = {f"score/{name}": value for name, value in manifest.get("scores", {}).get("model", {}).items()}
    uploads = (run.report, run.model, run.manifest, *sorted(run.path.glob("*.png")), run.animation)
    try:
        _log_new_epochs(tracked)
        tracked.tracker.end(manifest["state"], scores, [path for path in uploads if path.exists()])
    except tracked.tracker.errors as error:
        _warn(run, "the end of the run", error)


def _warn(run: Run, what: str, error: Exception) -> None:
    logger.warning("run %s continues, but its tracking server did not get %s: %s", run.id, what, _reason(error))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
