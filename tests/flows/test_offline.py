"""The whole job without a network except loopback, and the addresses it connects to."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers import SMALL, environment

OFFLINE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone"]


@pytest.mark.slow
def test_nothing_outside_this_machine_is_contacted(tmp_path: Path) -> None:
    variables = environment(tmp_path / "home")
    del variables["PREFECT_SERVER_ANALYTICS_ENABLED"]  # test the default
    if subprocess.run([*OFFLINE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace: unshare --net needs root")
    calls = tmp_path / "calls"
    watched = ["strace", "-f", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(calls)]
    job = [sys.executable, "-m", "catae", "train", "--source", "drawn:80", *SMALL]
    command = [*OFFLINE, *(watched if shutil.which("strace") else []), *job]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("report.html\n")
    if calls.exists():
        addresses = re.findall(
            r"sin6?_port=htons\((\d+)\).*?inet_(?:addr|pton)\((?:AF_INET6, )?\"([^\"]+)", calls.read_text()
        )
        assert addresses
        assert {address for _, address in addresses} <= {"127.0.0.1", "::1"}
        assert "53" not in {port for port, _ in addresses}  # no DNS queries
