"""The job, killed and hindered in its writing. The long form:
`benchmarks/pipeline/torture.py --kills 300 --faults 60`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("kills", "faults"), [(3, 2), pytest.param(60, 24, marks=pytest.mark.slow)], ids=["short", "longer"]
)
def test_a_job_that_is_killed_and_finds_its_disk_broken_ends_with_the_bytes_of_an_undisturbed_one(
    pytestconfig: pytest.Config, kills: int, faults: int
) -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler for the layer of faults: cc")
    torture: Path = pytestconfig.rootpath / "benchmarks/pipeline/torture.py"
    command = [sys.executable, torture, "--kills", str(kills), "--faults", str(faults), "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{kills} of {kills} kills survived" in ran.stdout
    assert f"{faults} of {faults} faults told in one line with exit code 2" in ran.stdout
