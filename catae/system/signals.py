"""How a command ends before it is done: by signals, and at once where nothing is left to wait for."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

PATIENCE = 5.0  # seconds between the first signal to end and the end


@contextmanager
def on_signals() -> Iterator[None]:
    """Ends the process at a second SIGINT or SIGTERM at once, and 5 s after the first, whatever still waits then.

    Everything is on the disk at any time, and Prefect may wait for minutes for a server that got the signal as well.
    It replaces the handlers of signals; the numbers that Python writes to a pipe come here all the same.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        ending = _next_ending(reader)
        if ending is None:
            return
        reader.settimeout(PATIENCE)
        with suppress(TimeoutError):
            if _next_ending(reader) is None:
                return
        at_once(128 + ending, "interrupted")

    watcher = threading.Thread(target=watch, daemon=True)
    pipe_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handler_before = signal.signal(signal.SIGTERM, _terminate)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler_before)
        signal.set_wakeup_fd(pipe_before)
        writer.close()
        watcher.join()
        reader.close()


def at_once(code: int, why: str) -> NoReturn:
    """Ends this process and those that it has started: Prefect's embedded server would stay behind, for ever."""
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGTERM)
    os.write(sys.stderr.fileno(), f"catae: {why}\n".encode())
    os._exit(code)


def _next_ending(reader: socket.socket) -> int | None:
    """The next SIGINT or SIGTERM that comes through the pipe of signals; None when the command has ended."""
    while received := reader.recv(1):
        if received[0] in (signal.SIGINT, signal.SIGTERM):
            return received[0]
    return None


class Terminated(BaseException):
    """SIGTERM came."""


def _terminate(number: int, frame: object) -> None:
    raise Terminated
