"""Runs are logged to MLflow and Weights & Biases on request."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
from conftest import ROOT
from servers import background, free_port, until

from catae import settings
from catae.errors import TrialPruned, UserError
from catae.pipeline import stages, torchrun, tracking
from catae.run import Run
from catae.settings import Settings
from catae.system import files
from catae.training import tensorboard

needs_mlflow = pytest.mark.skipif(
    not importlib.util.find_spec("mlflow"), reason="MLflow's client is missing: pip install 'catae[mlflow]'"
)
# The server needs 300 MB more than the client, which has no Flask; .ci/run installs it.
needs_server = pytest.mark.skipif(
    not (importlib.util.find_spec("mlflow") and importlib.util.find_spec("flask")),
    reason="MLflow's server is missing: .ci/run has it, pip install -c constraints.txt mlflow",
)
needs_wandb = pytest.mark.skipif(
    not importlib.util.find_spec("wandb"), reason="W&B's client is missing: pip install 'catae[wandb]'"
)


def tracked(small: Settings, library: str, resume: str = "never") -> Any:
    resolved = small.model_copy(update={"tracking": library, "resume": resume})
    return tracking.open_tracked_run(resolved, settings.origins())


def write_epochs(new: Run, first: int, last: int) -> None:
    with tensorboard.open_log(new.events, first) as log:
        for number in range(first, last + 1):
            log.scalars(number, {"loss/train": 1 / number, "loss/test": 2 / number})
    tracking.log_epochs(new)


def interrupted(small: Settings) -> Run:
    """Return a run that was interrupted after two epochs."""
    with suppress(KeyboardInterrupt), tracked(small, "mlflow") as new:
        write_epochs(new, 1, 2)
        raise KeyboardInterrupt
    return cast(Run, new)


def finish(new: Run) -> None:
    files.write_bytes(new.report, b"<html>")
    new.record(scores={"model": {"l1": 0.25}})


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, ExitStack]]:
    """Start MLflow's tracking server; yield its address, and a stack that stops it."""
    log, address = folder / "server.log", f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/kept"]
    # Otherwise it starts processes for jobs, which these tests do not use.
    variables = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/health").is_success
        except httpx.HTTPError:
            return False

    with ExitStack() as stack:
        process = stack.enter_context(background(log, command, variables))
        stack.callback(_end_all, psutil.Process(process.pid))
        until(answers, log)
        yield address, stack


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as (address, _):
        yield address


@pytest.fixture
def server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running server, at the address in MLflow's own variable."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)


def _end_all(server: psutil.Process) -> None:
    """End the server and its child processes, which it does not always do itself."""
    processes = [*server.children(recursive=True), server]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=20)
    for process in left:
        process.kill()


def read_mlflow_run(tracking_id: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient().get_run(tracking_id)


def steps(tracking_id: str) -> list[int]:
    from mlflow import MlflowClient

    return [point.step for point in MlflowClient().get_metric_history(tracking_id, "loss/train")]


def test_trackers_are_not_imported_unless_requested() -> None:
    code = "import sys, flows.train, flows.sweep; assert not {'mlflow', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=ROOT)


@pytest.mark.parametrize("library", ["mlflow", "wandb"])
def test_a_missing_library_is_an_error_before_anything_is_written(
    small: Settings, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of the same name shadows the library and raises what Python raises without it."""
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{library}'\")")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=rf"pip install 'catae\[{library}\]'"), tracked(small, library):
        pass
    assert not small.output_dir.exists()


@needs_mlflow
def test_an_unreachable_server_is_an_error_before_training(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="cannot log the run to mlflow"), tracked(small, "mlflow"):
        pass


@pytest.mark.slow
@needs_server
@pytest.mark.usefixtures("server")
def test_mlflow_gets_settings_epochs_scores_and_files_across_a_resume(small: Settings) -> None:
    from mlflow import MlflowClient

    new = interrupted(small)
    tracking_id = new.read()["tracking"]["id"]
    assert read_mlflow_run(tracking_id).info.status == "KILLED"
    with tracked(small, "mlflow", resume=new.id) as again:
        assert read_mlflow_run(tracking_id).info.status == "RUNNING"
        write_epochs(again, 3, 3)
        finish(again)
    mlflow_run, client = read_mlflow_run(tracking_id), MlflowClient()
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.info.run_name == new.id
    assert mlflow_run.data.params["latent_dim"] == "16"
    assert mlflow_run.data.metrics["score/l1"] == 0.25
    assert steps(tracking_id) == [1, 2, 3]
    assert {file.path for file in client.list_artifacts(tracking_id)} == {"report.html", "run.json"}
    assert files.read_json(Path(client.download_artifacts(tracking_id, "run.json")))["state"] == "finished"
    runs = client.search_runs([mlflow_run.info.experiment_id])
    assert [each.info.run_id for each in runs if each.info.run_name == new.id] == [tracking_id]


@pytest.mark.slow
@needs_server
@pytest.mark.usefixtures("server")
def test_mlflow_gets_the_final_state(small: Settings) -> None:
    for error, status in ((OSError("broken"), "FAILED"), (TrialPruned("worse than others"), "KILLED")):
        with suppress(type(error)), tracked(small, "mlflow") as new, tensorboard.open_log(new.events, 1):
            raise error  # before an epoch is done
        assert read_mlflow_run(new.read()["tracking"]["id"]).info.status == status


@pytest.mark.slow
@needs_server
@pytest.mark.usefixtures("server")
def test_epochs_are_logged_during_training(small: Settings) -> None:
    """In the stages, and in `catae fit`."""
    chosen = small.model_copy(update={"tracking": "mlflow", "max_epochs": 2})
    with tracking.open_tracked_run(chosen, settings.origins()) as new:
        stages.run_stages(new, chosen, stages.TRAINING)
        assert steps(new.read()["tracking"]["id"]) == [1, 2]
    alone = torchrun.fit_run(chosen.model_copy(update={"resume": "never"}), settings.origins())
    assert alone
    assert steps(alone.read()["tracking"]["id"]) == [1, 2]


@pytest.mark.slow
@needs_server
def test_a_run_continues_without_its_server(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow_server(tmp_path) as (address, gone):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with tracked(small, "mlflow") as new:
            write_epochs(new, 1, 1)
            gone.close()
            write_epochs(new, 2, 2)
            write_epochs(new, 3, 3)
    assert caplog.text.count("did not get epochs") == 1  # training does not wait for the server a second time
    assert "did not get the end of the run" in caplog.text
    assert new.read()["tracking"]["epoch"] == 1
    assert new.read()["state"] == "finished"


OFFLINE = """
import sys
from catae import settings
from catae.pipeline import tracking
from catae.training import tensorboard
chosen = settings.load({"output_dir": sys.argv[1], "tracking": "wandb"})
with tracking.open_tracked_run(chosen, settings.origins()) as new, tensorboard.open_log(new.events, 1) as log:
    log.scalars(1, {"loss/train": 1.0, "loss/test": 2.0})
    new.record(scores={"model": {"l1": 0.25}})
"""


@pytest.mark.slow
@needs_wandb
def test_wandb_logs_offline_and_leaves_no_process(tmp_path: Path) -> None:
    variables = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MARK": str(tmp_path)}
    subprocess.run([sys.executable, "-c", OFFLINE, tmp_path], check=True, timeout=300, cwd=ROOT, env=variables)
    (written,) = tmp_path.glob("runs/*/wandb/offline-run-*/*.wandb")
    content = written.read_bytes()
    for name in (b"loss/train", b"score/l1", b"latent_dim"):
        assert name in content
    (kept,) = tmp_path.glob("runs/*/wandb/offline-run-*/files/run.json")
    assert files.read_json(kept)["state"] == "finished"
    assert not [process for process in psutil.process_iter() if _marked(process, str(tmp_path))]


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("MARK") == mark
    except psutil.Error:
        return False
