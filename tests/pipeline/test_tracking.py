"""Runs are told to MLflow and Weights & Biases, where that is asked for."""

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
    not importlib.util.find_spec("mlflow"), reason="MLflow's client is not here: pip install 'catae[mlflow]'"
)
# The server takes 300 MB more than its client, which has no Flask; .ci/run installs it.
needs_server = pytest.mark.skipif(
    not (importlib.util.find_spec("mlflow") and importlib.util.find_spec("flask")),
    reason="MLflow's server is not here: .ci/run has it, pip install -c constraints.txt mlflow",
)
needs_wandb = pytest.mark.skipif(
    not importlib.util.find_spec("wandb"), reason="W&B's client is not here: pip install 'catae[wandb]'"
)


def followed(small: Settings, library: str, resume: str = "never") -> Any:
    chosen = small.model_copy(update={"tracking": library, "resume": resume})
    return tracking.open_tracked_run(chosen, settings.origins())


def write_epochs(new: Run, first: int, last: int) -> None:
    with tensorboard.writing(new.events, first) as log:
        for number in range(first, last + 1):
            log.scalars(number, {"loss/train": 1 / number, "loss/test": 2 / number})
    tracking.log_epochs(new)


def interrupted(small: Settings) -> Run:
    """A run whose user has had enough of it after two epochs."""
    with suppress(KeyboardInterrupt), followed(small, "mlflow") as new:
        write_epochs(new, 1, 2)
        raise KeyboardInterrupt
    return cast(Run, new)


def finish(new: Run) -> None:
    files.write_bytes(new.report, b"<html>")
    new.record(scores={"model": {"l1": 0.25}})


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, ExitStack]]:
    """MLflow's tracking server: its address, and what ends it."""
    log, address = folder / "server.log", f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/kept"]
    # It starts processes for jobs otherwise, which nothing here gives it.
    variables = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/health").is_success
        except httpx.HTTPError:
            return False

    with ExitStack() as stack:
        process = stack.enter_context(background(log, command, variables))
        stack.callback(_end_all, psutil.Process(process.pid))
        until(answers, 120, log)
        yield address, stack


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as (address, _):
        yield address


@pytest.fixture
def server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there, where MLflow's own variable says."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)


def _end_all(server: psutil.Process) -> None:
    """Ends the server and what it has started, which it doesn't always do itself."""
    processes = [*server.children(recursive=True), server]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=20)
    for process in left:
        process.kill()


def told_by_mlflow(known_as: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient().get_run(known_as)


def steps(known_as: str) -> list[int]:
    from mlflow import MlflowClient

    return [point.step for point in MlflowClient().get_metric_history(known_as, "loss/train")]


def test_nothing_is_imported_unless_asked_for() -> None:
    code = "import sys, flows.train, flows.sweep; assert not {'mlflow', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize("library", ["mlflow", "wandb"])
def test_a_missing_library_is_told_before_anything_is_done(
    small: Settings, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of the library's name stands before it, which is what Python finds where there is none."""
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{library}'\")")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=rf"pip install 'catae\[{library}\]'"), followed(small, library):
        pass
    assert not small.output_dir.exists()


@needs_mlflow
def test_a_server_that_is_not_there_is_told_before_training(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="cannot log the run to mlflow"), followed(small, "mlflow"):
        pass


@pytest.mark.slow
@needs_server
@pytest.mark.usefixtures("server")
def test_mlflow_gets_settings_epochs_scores_and_files_and_goes_on(small: Settings) -> None:
    from mlflow import MlflowClient

    new = interrupted(small)
    known_as = new.read()["tracking"]["id"]
    assert told_by_mlflow(known_as).info.status == "KILLED"
    with followed(small, "mlflow", resume=new.id) as again:
        assert told_by_mlflow(known_as).info.status == "RUNNING"
        write_epochs(again, 3, 3)
        finish(again)
    told, client = told_by_mlflow(known_as), MlflowClient()
    assert told.info.status == "FINISHED"
    assert told.info.run_name == new.id
    assert told.data.params["latent_dim"] == "16"
    assert told.data.metrics["score/l1"] == 0.25
    assert steps(known_as) == [1, 2, 3]
    assert {file.path for file in client.list_artifacts(known_as)} == {"report.html", "run.json"}
    assert files.read_json(Path(client.download_artifacts(known_as, "run.json")))["state"] == "finished"
    runs = client.search_runs([told.info.experiment_id])
    assert [each.info.run_id for each in runs if each.info.run_name == new.id] == [known_as]


@pytest.mark.slow
@needs_server
@pytest.mark.usefixtures("server")
def test_mlflow_is_told_how_runs_end(small: Settings) -> None:
    for error, status in ((OSError("broken"), "FAILED"), (TrialPruned("worse than others"), "KILLED")):
        with suppress(type(error)), followed(small, "mlflow") as new, tensorboard.writing(new.events, 1):
            raise error  # before an epoch is done
        assert told_by_mlflow(new.read()["tracking"]["id"]).info.status == status


@pytest.mark.slow
@needs_server
@pytest.mark.usefixtures("server")
def test_trainings_tell_their_epochs_as_they_go(small: Settings) -> None:
    """In the flow's task, and without an orchestrator."""
    chosen = small.model_copy(update={"tracking": "mlflow", "max_epochs": 2})
    with tracking.open_tracked_run(chosen, settings.origins()) as new:
        stages.run_stages(new, chosen, stages.TRAINING)
        assert steps(new.read()["tracking"]["id"]) == [1, 2]
    alone = torchrun.fit_run(chosen.model_copy(update={"resume": "never"}), settings.origins())
    assert alone
    assert steps(alone.read()["tracking"]["id"]) == [1, 2]


@pytest.mark.slow
@needs_server
def test_a_run_outlives_its_server(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow_server(tmp_path) as (address, gone):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with followed(small, "mlflow") as new:
            write_epochs(new, 1, 1)
            gone.close()
            write_epochs(new, 2, 2)
            write_epochs(new, 3, 3)
    assert caplog.text.count("did not get epochs") == 1  # training doesn't wait for it a second time
    assert "did not get the end of the run" in caplog.text
    assert new.read()["tracking"]["epoch"] == 1
    assert new.read()["state"] == "finished"


OFFLINE = """
import sys
from catae import settings
from catae.pipeline import tracking
from catae.training import tensorboard
chosen = settings.load({"output_dir": sys.argv[1], "tracking": "wandb"})
with tracking.open_tracked_run(chosen, settings.origins()) as new, tensorboard.writing(new.events, 1) as log:
    log.scalars(1, {"loss/train": 1.0, "loss/test": 2.0})
    new.record(scores={"model": {"l1": 0.25}})
"""


@pytest.mark.slow
@needs_wandb
def test_wandb_writes_the_run_down_offline_and_leaves_no_process_behind(tmp_path: Path) -> None:
    variables = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MARK": str(tmp_path)}
    subprocess.run([sys.executable, "-c", OFFLINE, tmp_path], check=True, timeout=120, cwd=ROOT, env=variables)
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
