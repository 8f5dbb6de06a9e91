import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_job_that_is_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(
    pytestconfig: pytest.Config,
) -> None:
    """The short form; the long one is `python benchmarks/torture.py --kills 100`."""
    command = [sys.executable, pytestconfig.rootpath / "benchmarks/torture.py", "--kills", "8", "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("8 of 8 kills survived")
