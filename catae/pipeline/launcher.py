"""Training in a run's folder by several processes of this machine, which PyTorch's `torchrun` starts and looks after.

One that is killed has all of them started again, up to three times, and they go on from the last state. They tell this
process how far they are through their output, where a message is a line of JSON that begins with a record separator
(RFC 7464); every other line is for the log. When this process ends, however it does, so do they: their input ends.
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
from catae.pipeline import stages
from catae.run import Run
from catae.system import files, hardware, signals
from catae.training import distributed, trainer
from catae.training.metrics import Epoch
from catae.training.trainer import Outcome

logger = logging.getLogger(__name__)

# torch's `elastic_launch` starts workers from Python. A prototype with it, which read the progress from the event
# files, had 135 lines of code; this module has 102. It can't be stopped from outside, so workers have to watch a file.
# It needs a thread, where it handles no signals, and it leaves 4 files open at each restart of 2 workers. Workers still
# have to notice when their parent is killed, and the event files do not say which epoch is the best.
RESTARTS = 3
MESSAGE = "\x1e"
GRACE = 15.0  # seconds to end in: a process that waits for another has 5, and torchrun looks every second or so


def fit(run: Run, processes: int, after_epoch: Callable[[Epoch, int], None]) -> Outcome:
    """What `training.fit` does, by so many processes; the run has its pictures and its split.

    Args:
        run: is this process's to write to, by its lock.
        processes: how many train together.
        after_epoch: called when all of an epoch is on the disk, with the epoch and how many there are at most.

    Raises:
        UserError: theirs, if it is one; or they have ended too often.
    """
    outcome: Outcome | None = None
    with tempfile.TemporaryDirectory() as logs, _started(_command(run, processes, logs), processes) as lines:
        for line in lines:
            if not line.startswith(MESSAGE):
                logger.info("%s", line.rstrip())
                continue
            match json.loads(line.removeprefix(MESSAGE)):
                case {"epoch": epoch, "of": most}:
                    after_epoch(Epoch(**epoch), most)
                case {"outcome": facts}:
                    outcome = Outcome(**facts)
                case {"error": text}:
                    raise UserError(text)
    if outcome is None:
        raise UserError(
            f"the {processes} processes of the training have ended before it was done, and were started again "
            f"{RESTARTS} times at most: the log says why; where they were killed, memory may be short: lower "
            "CATAE_PROCESSES or CATAE_BATCH_SIZE"
        )
    return outcome


def work(folder: Path) -> None:
    """What each of the processes does that `fit` has started for the run in `folder`."""
    _end_with_input()
    run = Run(folder)
    try:
        _train(run)
    except UserError as error:
        _say(error=str(error))
        raise SystemExit(2) from error
    except WorkerLost as error:
        logger.warning("%s", error)
        raise SystemExit(1) from error


def _train(run: Run) -> None:
    chosen = settings.load({name: setting["value"] for name, setting in files.read_json(run.settings).items()})
    images, parts = stages.divided(run, Path(run.read()["data"]["store"]))

    def tell(epoch: Epoch, most: int) -> None:
        _say(epoch=asdict(epoch), of=most)

    with distributed.joined() as us:
        hardware.use_threads(chosen.threads, us.beside)
        if us.first:
            identity = run.identity(chosen)
            outcome = trainer.fit(images, parts, chosen, run.events, run.checkpoints, identity, tell, us)
            _say(outcome=asdict(outcome))
        else:
            trainer.fit_worker(images, parts, chosen, us)


def _say(**message: object) -> None:
    # In one piece, with its end: `print` writes that by itself, and another process's message would come between.
    sys.stdout.write(f"{MESSAGE}{json.dumps(message)}\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    """Ends this process as soon as the one that started it all is gone: it holds the other end of the input.

    The run's lock has gone with it, and another may go on with the run at any time.
    """

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        signals.at_once(128 + signal.SIGTERM, "the process that this one works for has ended")

    threading.Thread(target=watch, daemon=True).start()


def _command(run: Run, processes: int, logs: str) -> list[str]:
    # Where its folder for logs is not given, it leaves one in /tmp each time, though it writes none.
    torchrun = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--log-dir", logs]
    # On a machine so busy that torchrun itself has no turn for 15 s, it would take its only host for dead.
    patient = ["--rdzv-conf", "keep_alive_max_attempt=60"]
    how = [*patient, "--nproc-per-node", str(processes), "--max-restarts", str(RESTARTS)]
    return [sys.executable, "-m", *torchrun, *how, "-m", "catae", "fit", "--folder", str(run.path.resolve())]


@contextmanager
def _started(command: Sequence[str], processes: int) -> Iterator[Iterator[str]]:
    """The lines that a command writes; at the end it is ended, if it hasn't, with all that it has started."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    quiet = {"OMP_NUM_THREADS": str(max(1, hardware.usable_cpus() // processes)), "GLOO_SOCKET_IFNAME": loopback}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=quiet | os.environ,
    )
    assert process.stdout
    try:
        yield iter(process.stdout)
    finally:
        process.terminate()  # torchrun passes it on
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE)
        process.kill()
        process.wait()
