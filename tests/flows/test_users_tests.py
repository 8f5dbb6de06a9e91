"""Support for users who test their own flows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers import environment, free_port

from catae import settings
from catae.pipeline import lifecycle
from catae.settings import Settings
from flows import tasks


def test_a_task_called_as_a_function_needs_no_server(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")  # nothing listens there
    new = lifecycle.create_run(small, settings.origins())
    for task in (tasks.read, tasks.split, tasks.train, tasks.draw_curves):
        task.fn(new.path, small)
    assert new.read()["training"]["epochs"] == small.max_epochs


@pytest.mark.slow
def test_the_documented_test_of_your_own_flow_passes(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    blocks = re.findall(
        r"```python\n(# test_\w+\.py\n.*?)```", (pytestconfig.rootpath / "docs/python.md").read_text(), re.S
    )
    assert len(blocks) == 1
    Path("test_mine.py").write_text(blocks[0])
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_mine.py"],
        env=environment(tmp_path / "home"), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout
