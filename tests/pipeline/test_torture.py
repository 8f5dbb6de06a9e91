"""Test kills and disk faults, in short. The long form: `benchmarks/pipeline/torture.py --kills 300 --faults 60`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("kills", "faults"), [(3, 2), pytest.param(24, 12, marks=pytest.mark.slow)], ids=["short", "longer"]
)
def test_kills_and_disk_faults_do_not_change_the_results(pytestconfig: pytest.Config, kills: int, faults: int) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler (cc) to build faults.c")
    torture: Path = pytestconfig.rootpath / "benchmarks/pipeline/torture.py"
    command = [sys.executable, torture, "--kills", str(kills), "--faults", str(faults), "--seed", "1"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"{kills} of {kills} kills survived" in completed.stdout
    assert f"{faults} of {faults} faults reported in one line with exit code 2" in completed.stdout
