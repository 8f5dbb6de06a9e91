"""Training on two hosts, which are network namespaces of this machine with separate folders."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchrun
from torchrun import job_settings

from catae.run import Run

pytestmark = pytest.mark.slow

HOSTS = {"catae-a": "10.111.0.1", "catae-b": "10.111.0.2"}


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Create two network namespaces and a veth pair between them."""
    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "wire", "netns", "catae-a", "type", "veth", "peer", "name", "wire", "netns", "catae-b")
        for name, address in HOSTS.items():
            ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        remove_namespaces()
        pytest.skip(f"network namespaces cannot be created: {getattr(error, 'stderr', error)}")
    yield
    remove_namespaces()


def remove_namespaces() -> None:
    """Delete the namespaces, and with them the link."""
    for name in HOSTS:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def start(host: str, folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start `catae fit` on a host, as one process in its own session that logs to `<folder>.log`."""
    first = "catae-a"
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{HOSTS[first]}:29400", "--rdzv-id", "cats"]
    is_host = ["--rdzv-conf", f"is_host={int(host == first)}", "--local-addr", HOSTS[host]]
    command = [*torchrun.TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *rendezvous, *is_host, *options]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, *command, "-m", "catae", "fit", *torchrun.flags(job_settings(folder))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=torchrun.environment(GLOO_SOCKET_IFNAME="wire", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
            start_new_session=True,
        )


def test_two_hosts_train_the_same_weights_as_two_processes_of_one_host(
    hosts: None, two_process_run: Run, tmp_path: Path
) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    started = [start(host, folder) for host, folder in zip(HOSTS, folders, strict=True)]
    try:
        for process in started:
            process.wait(600)
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    logs = [folder.with_suffix(".log").read_text() for folder in folders]
    assert [process.returncode for process in started] == [0, 0], "\n".join(logs)
    (output_dir,) = (folder for folder in folders if (folder / "runs").exists())  # rank 0 may be on either host

    assert torchrun.weights(Run((output_dir / "latest").resolve())) == torchrun.weights(two_process_run)
