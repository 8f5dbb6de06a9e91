"""Train a run with several processes of this machine, which `torchrun` starts and supervises.

If a worker is killed, `torchrun` restarts all of them, up to three times, and training resumes from the last
checkpoint. The workers report to this process through their output. A message is a line of JSON after a record
separator (RFC 7464); every other line goes to the log. The workers end when this process ends, however it does, because
their standard input closes.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from catae import settings
from catae.errors import UserError, WorkerLost
from catae.pipeline.inputs import load_inputs
from catae.run import Run
from catae.system import files, hardware, signals
from catae.training import distributed, loop
from catae.training.loop import Outcome
from catae.training.metrics import Epoch

logger = logging.getLogger(__name__)

# torch's `elastic_launch` starts workers from Python. A prototype with it, which read the progress from the event
# files, had 135 lines of code; this module has 102. It cannot be stopped from outside, so workers have to watch a file.
# It needs a thread, where it handles no signals, and it leaves 4 files open at each restart of 2 workers. Workers still
# have to notice when their parent is killed, and the event files do not say which epoch is the best.
RESTARTS = 3
MESSAGE = "\x1e"
GRACE = 15.0  # seconds to end: a worker that waits for another takes up to 5, and torchrun checks every second or so


def launch_workers(run: Run, processes: int, after_epoch: Callable[[Epoch, int], None]) -> Outcome:
    """Train with several processes, as `loop.fit` does with one.

    Args:
        run: the run, with its images and its split; this process holds its lock.
        processes: how many processes train together.
        after_epoch: called when an epoch has been saved, with the epoch and the maximum number of epochs.

    Returns:
        How training ended.

    Raises:
        UserError: a worker raised one, or the workers ended too often.
    """
    outcome: Outcome | None = None
    with tempfile.TemporaryDirectory() as logs, _start(_command(run, processes, logs), processes) as lines:
        for line in lines:
            if not line.startswith(MESSAGE):
                logger.info("%s", line.rstrip())
                continue
            match json.loads(line.removeprefix(MESSAGE)):
                case {"epoch": epoch, "of": max_epochs}:
                    after_epoch(Epoch(**epoch), max_epochs)
                case {"outcome": facts}:
                    outcome = Outcome(**facts)
                case {"error": text}:
                    raise UserError(text)
    if outcome is None:
        raise UserError(
            f"the {processes} training processes ended early and were restarted up to {RESTARTS} times; see the log "
            "for the cause. If they were killed, memory may be short: lower CATAE_PROCESSES or CATAE_BATCH_SIZE"
        )
    return outcome


def run_worker(folder: Path) -> None:
    """Train as one of the processes that `launch_workers` has started for the run in `folder`."""
    _end_with_input()
    run = Run(folder)
    try:
        _train(run)
    except UserError as error:
        _send(error=str(error))
        raise SystemExit(2) from error
    except WorkerLost as error:
        logger.warning("%s", error)
        raise SystemExit(1) from error


def _train(run: Run) -> None:
    resolved = settings.load({name: setting["value"] for name, setting in files.read_json(run.settings).items()})
    inputs = load_inputs(run)

    def send_epoch(epoch: Epoch, max_epochs: int) -> None:
        _send(epoch=asdict(epoch), of=max_epochs)

    with distributed.init_process_group() as world:
        hardware.use_threads(resolved.threads, world.local_world_size)
        if world.is_main:
            outcome = loop.fit(
                inputs.images,
                inputs.split,
                resolved,
                run.events,
                run.checkpoints,
                run.identity(resolved),
                send_epoch,
                world,
            )
            _send(outcome=asdict(outcome))
        else:
            loop.fit_worker(inputs.images, inputs.split, resolved, world)


def _send(**message: object) -> None:
    # One write, with the newline: `print` writes that separately, and a message of another process could come between.
    sys.stdout.write(f"{MESSAGE}{json.dumps(message)}\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    """End this process as soon as the process that started it is gone, which closes the standard input.

    The lock of the run is released with that process, so another one may resume the run at any time.
    """

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        signals.exit_now(128 + signal.SIGTERM, "the process that started this training process has ended")

    threading.Thread(target=watch, daemon=True).start()


def _command(run: Run, processes: int, logs: str) -> list[str]:
    # Without --log-dir, torchrun leaves an empty folder in /tmp each time.
    torchrun = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--log-dir", logs]
    # On a busy machine torchrun may not be scheduled for 15 s, and would then consider its only host dead.
    keep_alive = ["--rdzv-conf", "keep_alive_max_attempt=60"]
    workers = ["--nproc-per-node", str(processes), "--max-restarts", str(RESTARTS)]
    fit = ["-m", "catae", "fit", "--folder", str(run.path.resolve())]
    return [sys.executable, "-m", *torchrun, *keep_alive, *workers, *fit]


@contextmanager
def _start(command: Sequence[str], processes: int) -> Iterator[Iterator[str]]:
    """Start a command and yield the lines it writes; at the end, stop it and all processes it has started."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    defaults = {"OMP_NUM_THREADS": str(max(1, hardware.usable_cpus() // processes)), "GLOO_SOCKET_IFNAME": loopback}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=defaults | os.environ,
    )
    assert process.stdout
    try:
        yield iter(process.stdout)
    finally:
        process.terminate()  # torchrun forwards it to the workers
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE)
        process.kill()
        process.wait()
