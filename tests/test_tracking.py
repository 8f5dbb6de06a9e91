"""Runs are told to MLflow and Weights & Biases, where that is asked for."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from servers import background, free_port, until

from catae import events, files, run, settings, tracking
from catae.errors import UserError
from catae.run import Run
from catae.settings import Settings


def begun(small: Settings, library: str) -> tuple[Run, Settings]:
    chosen = small.model_copy(update={"tracking": library})
    return run.create(chosen, settings.origins()), chosen


def write_epochs(new: Run, first: int, last: int) -> None:
    with events.writing(new.events, first) as log:
        for number in range(first, last + 1):
            log.scalars(number, {"loss/train": 1 / number, "loss/test": 2 / number})


def finish(new: Run) -> None:
    files.write_bytes(new.report, b"<html>")
    new.record(scores={"model": {"l1": 0.25}})


def interrupted(new: Run, chosen: Settings) -> None:
    with tracking.followed(new, chosen):
        write_epochs(new, 1, 2)
        tracking.tell(new)
        raise KeyboardInterrupt


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ExitStack]]:
    """MLflow's tracking server, its address, and what ends it."""
    if not (importlib.util.find_spec("mlflow") and importlib.util.find_spec("flask")):  # mlflow-skinny has no Flask
        pytest.skip("MLflow's server is not here: pip install mlflow")
    port, log = free_port(), tmp_path / "server.log"
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", f"{tmp_path}/kept"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/health").is_success
        except httpx.HTTPError:
            return False

    with ExitStack() as stack:
        stack.enter_context(background(log, command, dict(os.environ)))
        until(answers, 120, log)
        yield address, stack


def test_nothing_is_imported_unless_asked_for() -> None:
    code = "import sys, flows.train; assert not {'mlflow', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(tracking.__file__).parent.parent)


def test_a_missing_library_is_told_before_training(small: Settings) -> None:
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is here")
    new, chosen = begun(small, "wandb")
    with pytest.raises(UserError, match=r"pip install 'catae\[wandb\]'"), tracking.followed(new, chosen):
        pass


def test_a_server_that_is_not_there_is_told_before_training(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not here: pip install 'catae[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    new, chosen = begun(small, "mlflow")
    with pytest.raises(UserError, match="can't be told of the run"), tracking.followed(new, chosen):
        pass


@pytest.mark.slow
def test_mlflow_gets_settings_epochs_scores_and_files_and_goes_on(
    small: Settings, server: tuple[str, ExitStack]
) -> None:
    new, chosen = begun(small, "mlflow")
    with pytest.raises(KeyboardInterrupt):
        interrupted(new, chosen)
    from mlflow import MlflowClient

    client, known_as = MlflowClient(), new.read()["tracking"]["id"]
    assert client.get_run(known_as).info.status == "KILLED"
    with tracking.followed(new, chosen):
        write_epochs(new, 3, 3)
        tracking.tell(new)
        finish(new)
    told = client.get_run(known_as)
    assert told.info.status == "FINISHED"
    assert told.data.params["latent_dim"] == "16"
    assert told.data.metrics["score/l1"] == 0.25
    assert [point.step for point in client.get_metric_history(known_as, "loss/train")] == [1, 2, 3]
    assert {"report.html", "run.json"} <= {file.path for file in client.list_artifacts(known_as)}
    assert len(client.search_runs([told.info.experiment_id])) == 1


@pytest.mark.slow
def test_a_run_outlives_its_server(
    small: Settings, server: tuple[str, ExitStack], caplog: pytest.LogCaptureFixture
) -> None:
    new, chosen = begun(small, "mlflow")
    with tracking.followed(new, chosen):
        write_epochs(new, 1, 1)
        tracking.tell(new)
        server[1].close()
        write_epochs(new, 2, 2)
        tracking.tell(new)
    assert "wasn't told the epochs" in caplog.text
    assert new.read()["tracking"]["epoch"] == 1


@pytest.mark.slow
def test_wandb_writes_the_run_down_offline(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not here: pip install 'catae[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    new, chosen = begun(small, "wandb")
    with tracking.followed(new, chosen):
        write_epochs(new, 1, 2)
        tracking.tell(new)
        finish(new)
    (written,) = new.path.glob("wandb/offline-run-*/*.wandb")
    content = written.read_bytes()
    assert b"loss/train" in content
    assert b"score/l1" in content
    assert b"latent_dim" in content
