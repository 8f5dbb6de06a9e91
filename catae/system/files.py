"""Files that are whole or not there at all."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from catae.errors import UserError

_ROOM = "free some room, and run the same command again: it goes on where it stopped"
_PLACE = "give another --output-dir (CATAE_OUTPUT_DIR), or the right to write there"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITING = ".writing-"  # what the temporary files begin with
CLOSED = (errno.EACCES, errno.EPERM)
MENDABLE = {
    **dict.fromkeys(FULL, _ROOM),
    **dict.fromkeys((errno.EROFS, errno.ENOTDIR, *CLOSED), _PLACE),
    errno.EIO: "the disk fails; run the same command again when it is mended, or give another --output-dir",
}


def sweep(folder: Path) -> None:
    """Removes what killed processes have left half-written in `folder` and below; nobody else may write there now."""
    for left in folder.rglob(f"{WRITING}*"):
        left.unlink()


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Keeps `folder` to this process; the kernel lets go of it when the process ends, however it does.

    Raises:
        BlockingIOError: another process has it, and this one is not to wait.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explain_os_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turns what a disk answers to a writing of `path`, of so many bytes, into one line for the user.

    Raises:
        UserError: in the place of an OSError of a kind that the user can mend.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        details = _details(_existing(path), error.errno, size)
        raise UserError(f"{path} can't be written: {error.strerror}{details}; {MENDABLE[error.errno]}") from error


def _details(folder: Path, number: int, size: int) -> str:
    """What there is to say of the folder: how much is free on a full disk; of a closed one, whose it is and who asks.

    In a container users are but numbers, and the one who asks is the image's, unless it was told another.
    """
    if number in FULL:
        needed = f"{size / 1e6:,.1f} MB are needed, " if size > 1e5 else ""
        return f" ({needed}{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free)"
    if number in CLOSED:
        owner, asking = f"{folder.stat().st_uid}:{folder.stat().st_gid}", f"{os.getuid()}:{os.getgid()}"
        return f" ({folder} is of {owner}, this runs as {asking}: chown it to {asking}, or docker run --user {owner})"
    return ""


def check_place(folder: Path) -> None:
    """Looks whether anything can be written to `folder`, or to the nearest one above it that is there; leaves nothing.

    Raises:
        UserError: nothing can.
    """
    with explain_os_errors(folder):
        tempfile.TemporaryFile(dir=_existing(folder)).close()


def check_room(folder: Path, needed: float) -> None:
    """Looks whether `needed` bytes can be written below `folder`.

    Raises:
        UserError: there is less room than that.
    """
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e6:,.1f} MB free, and {needed / 1e6:,.1f} MB are needed; free some, or give "
            "another --output-dir (CATAE_OUTPUT_DIR)"
        )


def _existing(path: Path) -> Path:
    """The nearest folder above `path` that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically; a reader sees the old file or the new one. Raise like `atomic_write`."""
    with atomic_write(path, size=len(data)) as file:
        file.write(data)


@contextmanager
def atomic_write(path: Path, size: int = 0, before: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that gets the name `path` at the end: a reader sees the old file or the new one, never a part.

    The new bytes are on the disk before they get their name, and the name after that. An error leaves the old file as
    it was.

    Args:
        path: the file.
        size: how many bytes are about to be written, if that is known.
        before: what the old file is called from then on; None removes it.

    Raises:
        UserError: the disk is full, read-only or broken, or the folder is closed.
    """
    temporary = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
    with explain_os_errors(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
            sync(temporary)
            if before and path.exists():
                path.replace(before)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def read_json(path: Path) -> Any:
    """What the JSON file `path` holds.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a whole JSON file: {error}") from error


def read_manifest(path: Path, of: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest `path` of a folder says.

    Args:
        path: the JSON file.
        of: what it is the manifest of, like 'run'.
        kinds: by name, the kind of value that it must have.

    Raises:
        UserError: it can't be read, or is something else.
    """
    said = read_json(path)
    if not (isinstance(said, dict) and all(name in said and isinstance(said[name], kinds[name]) for name in kinds)):
        raise UserError(f"{path} is no {of}'s manifest; remove {path.parent}, or put it back from a copy")
    return said


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Waits until the file's bytes, or the folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_timestamped(parent: Path) -> Path:
    """Create a folder in `parent` named by the current time, in UTC, and return it. No two processes get the same."""
    stem = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(errno.EEXIST, "999 folders were created in this second", str(parent))


def symlink(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to the folder `target`, atomically. One process at a time may do so."""
    temporary = link.with_name(f"{WRITING}{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    temporary.replace(link)
