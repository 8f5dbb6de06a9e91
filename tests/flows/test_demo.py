"""`make demo` and `make demo-stop`, as a user runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from servers import environment


def demo(folder: Path, what: str) -> str:
    """Start or stop the demo in its own folder; return its output."""
    variables = environment(folder, DEMO=str(folder), PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    del variables["PREFECT_HOME"]
    with (folder / "output").open("w") as output:
        # A file, since background processes would keep a pipe open.
        subprocess.run(
            [ROOT / "scripts" / "demo.sh", what], env=variables, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, timeout=400, check=True,
        )  # fmt: skip
    return (folder / "output").read_text()


@pytest.mark.slow
def test_the_demo_trains_prints_addresses_and_stops(tmp_path: Path) -> None:
    try:
        output = demo(tmp_path, "start")
        api = re.search(r"export PREFECT_API_URL=(\S+)", output)[1]  # type: ignore[index]
        assert "Flow run finished successfully in 'Completed'." in output
        (run,) = httpx.post(f"{api}/flow_runs/filter", json={}).json()
        assert (run["name"], run["state_type"]) == ("drawn:300 · 128 · seed 0", "COMPLETED")
        assert httpx.get(api.removesuffix("/api") + "/v2/").is_success
        assert f"{tmp_path}/artifacts/latest/report.html" in output
        assert (tmp_path / "artifacts" / "latest" / "report.html").exists()
        processes = [Path("/proc", (tmp_path / f"{name}.pid").read_text().strip()) for name in ("worker", "server")]
    finally:
        ended = demo(tmp_path, "stop")
    assert ended == "stopped the worker\nstopped the server\n"
    assert not [process for process in processes if process.exists() and (process / "cmdline").read_bytes()]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api}/health")
