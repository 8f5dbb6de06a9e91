"""End a command early: on signals, or at once when nothing is left to wait for."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

GRACE_PERIOD = 5.0  # seconds from the first signal to a forced exit


@contextmanager
def handle_signals() -> Iterator[None]:
    """Exit at the second SIGINT or SIGTERM, or 5 s after the first if the command is still running.

    A forced exit is safe because every state on disk is complete at any time. Prefect, in contrast, may wait minutes
    for a server that received the same signal. The thread here reads the signal numbers that Python writes to its
    wakeup file descriptor, so that it works while the main thread is blocked.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        number = _next_signal(reader)
        if number is None:
            return
        reader.settimeout(GRACE_PERIOD)
        with suppress(TimeoutError):
            if _next_signal(reader) is None:
                return
        exit_now(128 + number, "interrupted")

    watcher = threading.Thread(target=watch, daemon=True)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    previous_handler = signal.signal(signal.SIGTERM, _terminate)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
        signal.set_wakeup_fd(previous_fd)
        writer.close()
        watcher.join()
        reader.close()


def exit_now(code: int, reason: str) -> NoReturn:
    """Terminate the child processes and exit without cleanup. Otherwise Prefect's embedded server keeps running."""
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGTERM)
    os.write(sys.stderr.fileno(), f"catae: {reason}\n".encode())
    os._exit(code)


def _next_signal(reader: socket.socket) -> int | None:
    """Wait for the next SIGINT or SIGTERM; return None when the command has ended."""
    while received := reader.recv(1):
        if received[0] in (signal.SIGINT, signal.SIGTERM):
            return received[0]
    return None


class Terminated(BaseException):
    """The process received SIGTERM."""


def _terminate(number: int, frame: object) -> None:
    raise Terminated
