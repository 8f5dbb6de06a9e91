"""The flow on Prefect's embedded server, in processes of its own, as a user starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = [
    "--image-size", "32", "--latent-dim", "8", "--width", "4", "--max-epochs", "2", "--samples", "4",
    "--interpolation-steps", "5",
]  # fmt: skip


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all of them: making it takes 10 s."""
    return tmp_path_factory.mktemp("prefect")


def start(prefect_home: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(prefect_home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_the_whole_job_runs_in_one_command_and_prints_where_the_report_is(prefect_home: Path) -> None:
    ended = start(prefect_home, "catae", "train", "--source", "drawn:80", "--output-dir", "out", *SMALL)
    assert ended.returncode == 0, ended.stderr
    folder = Path("out/latest").resolve()
    assert ended.stdout == f"out/runs/{folder.name}/report.html\n"
    said = json.loads((folder / "run.json").read_text())
    assert (said["state"], said["training"]["epochs"]) == ("finished", 2)
    assert said["scores"]["pictures"] == said["split"]["test"]
    assert "epoch   2/2" in ended.stderr
    assert "ETA" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (folder / "report.html").stat().st_size > 50_000


def test_python_m_flows_train_is_the_same_command_and_the_same_seed_gives_the_same_pictures(prefect_home: Path) -> None:
    for name in ("one", "two"):
        ended = start(prefect_home, "flows.train", "--source", "drawn:80", "--output-dir", name, *SMALL)
        assert ended.returncode == 0, ended.stderr
    for file in (
        "split.json", "data.json", "model.safetensors", "curves.png", "reconstructions.png", "generated.png",
        "generated-gaussian.png", "interpolation.png", "interpolation.gif",
    ):  # fmt: skip
        assert Path("one/latest", file).read_bytes() == Path("two/latest", file).read_bytes(), file


def test_an_error_of_the_users_is_one_line_without_a_traceback_and_is_in_the_manifest(prefect_home: Path) -> None:
    Path("empty").mkdir()
    ended = start(prefect_home, "catae", "train", "--source", "empty", "--output-dir", "out")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "catae: empty: it is empty; correct --source (CATAE_SOURCE)\n"
    said = json.loads(Path("out/latest/run.json").read_text())
    assert (said["state"], said["error"]) == ("failed", f"UserError: {ended.stderr[7:-1]}")
