"""The life of a run: create or resume it, lock its folder, and record how it ends."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from catae.errors import TrialPruned, UserError
from catae.run import FAILED, FINISHED, INTERRUPTED, KILLED, LATEST, PRUNED, RUNNING, Run, find_run
from catae.settings import RESUME_SAFE, Settings
from catae.system import files, hardware, text

logger = logging.getLogger(__name__)


def create_run(settings: Settings, origins: Mapping[str, str]) -> Run:
    """Create the folder of a new run, with `run.json` and `settings.json`, and point `latest` at it.

    Args:
        settings: as resolved.
        origins: where each setting was set.

    Raises:
        UserError: `settings.output_dir` cannot be written to.
    """
    with ExitStack() as stack:
        return _lock_run(settings.model_copy(update={"resume": "never"}), origins, stack)


@contextmanager
def open_run(settings: Settings, origins: Mapping[str, str]) -> Iterator[Run]:
    """Resume an interrupted run, or create one, as `settings.resume` says, and record how it ends.

    `run.json` then states 'finished', 'failed', 'pruned' or 'interrupted'. The folder is locked meanwhile, so that only
    one process writes to it. The lock ends with the process: a run that is 'running' without a lock was killed.

    Args:
        settings: as resolved.
        origins: where each setting was set.

    Raises:
        UserError: the named run cannot be resumed, another process has locked it, or `settings.output_dir` cannot be
            written to.
    """
    start = time.monotonic()
    with ExitStack() as stack:
        run = _lock_run(settings, origins, stack)

        def end(state: str, error: str | None = None) -> None:
            run.record(state=state, ended=text.utc_now(), seconds=round(time.monotonic() - start, 1), error=error)

        try:
            yield run
        except TrialPruned as error:
            end(PRUNED, str(error))
            raise
        except Exception as error:
            end(FAILED, f"{type(error).__name__}: {error}")
            raise
        except BaseException as error:
            end(INTERRUPTED, type(error).__name__)  # KeyboardInterrupt, or Prefect's TerminationSignal
            raise
        end(FINISHED)


def _lock_run(settings: Settings, origins: Mapping[str, str], stack: ExitStack) -> Run:
    """Choose the run to do and lock it until `stack` ends. One process at a time chooses."""
    runs = settings.output_dir / "runs"
    with files.explain_os_errors(settings.output_dir):
        runs.mkdir(parents=True, exist_ok=True)
        with files.locked(runs):
            for path in runs.iterdir():
                _mark_killed(path)
            run = find_resumable(settings) or Run(files.create_timestamped(runs))
            try:
                stack.enter_context(files.locked(run.path, wait=False))
            except BlockingIOError as error:
                raise UserError(
                    f"another process is writing to {run.path}: wait until it ends, or start a new run with "
                    "--resume never"
                ) from error
            _record_start(run, settings, origins)
            return run


def _mark_killed(path: Path) -> None:
    """Clean up after a killed process: remove half-written files, and record the state of a run as killed."""
    try:
        with files.locked(path, wait=False):
            files.remove_partial(path)
            if not any(path.iterdir()):
                path.rmdir()
            elif (run := Run(path)).read()["state"] == RUNNING:
                run.record(state=KILLED)
    except (BlockingIOError, NotADirectoryError):
        pass  # another process works on it, or it is not a folder
    except UserError as error:
        logger.warning("%s", error)


def find_resumable(settings: Settings) -> Run | None:
    """Return the run to resume, if there is one: the named run, or the newest unfinished one with these settings.

    Raises:
        UserError: the named run does not exist, or its settings differ.
    """
    if settings.resume == "never":
        return None
    if settings.resume != "auto":
        run = find_run(settings.resume, settings.output_dir, "--resume")
        if changed := _changed_settings(run, settings):
            raise UserError(
                f"cannot resume run {run.id}: settings changed ({', '.join(changed)}); restore them, or start a new "
                "run with --resume never"
            )
        return run
    for path in sorted((settings.output_dir / "runs").glob("*"), reverse=True):
        run = Run(path)
        if not (run.manifest.is_file() and run.settings.is_file()):
            continue
        try:
            state = run.state()
            if state in (RUNNING, FINISHED):
                continue
            changed = _changed_settings(run, settings)
        except UserError as error:
            logger.warning("%s; this run is not resumed", error)
            continue
        if changed:
            logger.info("run %s (%s) is not resumed: settings changed (%s)", run.id, state, ", ".join(changed))
            continue
        logger.info("resuming run %s (%s)", run.id, state)
        return run
    return None


def _changed_settings(run: Run, settings: Settings) -> list[str]:
    """Describe the hyperparameters, and the source, in which the run differs from `settings`."""
    before = files.read_json(run.settings)
    now = settings.model_dump(mode="json")
    try:
        return [
            f"{name} was {before[name]['value']!r}, is {value!r}"
            for name, value in now.items()
            if (name not in RESUME_SAFE or name == "source") and before[name]["value"] != value
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{run.settings} does not hold the settings of a run of this version") from error


def _record_start(run: Run, settings: Settings, origins: Mapping[str, str]) -> None:
    """Record that the run starts or resumes, and point `latest` at it."""
    values = {name: {"value": value, "from": origins[name]} for name, value in settings.model_dump(mode="json").items()}
    before: dict[str, Any] = {"id": run.id, "started": text.utc_now(), "attempts": 0}
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
        files.symlink(settings.output_dir / LATEST, run.path)
