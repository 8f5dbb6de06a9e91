"""Write files atomically, lock folders, and explain disk errors to the user."""

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

PARTIAL = ".writing-"  # prefix of temporary files
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM)
_FREE_SPACE = "free some space and run the same command again to resume"
_OTHER_FOLDER = "choose another --output-dir (CATAE_OUTPUT_DIR), or make this one writable"
ADVICE = {
    **dict.fromkeys(FULL, _FREE_SPACE),
    **dict.fromkeys((errno.EROFS, errno.ENOTDIR, *DENIED), _OTHER_FOLDER),
    errno.EIO: "the disk fails: fix it and run the same command again, or choose another --output-dir",
}


def remove_partial(folder: Path) -> None:
    """Delete temporary files that killed processes left in `folder` and below. No other process may write there."""
    for partial in folder.rglob(f"{PARTIAL}*"):
        partial.unlink()


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `folder`. The kernel releases it when the process ends, even if it is killed.

    Raises:
        BlockingIOError: another process holds the lock and `wait` is false.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explain_os_errors(path: Path, size: int = 0, action: str = "write") -> Iterator[None]:
    """Turn an OSError about `path` into one line for the user.

    Args:
        path: the file or folder.
        size: bytes to write, if known.
        action: what was attempted, 'write' or 'read'.

    Raises:
        UserError: instead of an OSError that the user can fix.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        details = _details(_existing_parent(path), error.errno, size)
        raise UserError(f"cannot {action} {path}: {error.strerror}{details}; {ADVICE[error.errno]}") from error


def _details(folder: Path, number: int, size: int) -> str:
    """Return the free space of a full disk, or the owner of a folder that denies access and the user of this process.

    In a container users are only numbers, and the default user is the image's.
    """
    if number in FULL:
        needed = f"{size / 1e6:,.1f} MB needed, " if size > 1e5 else ""
        return f" ({needed}{shutil.disk_usage(folder).free / 1e6:,.1f} MB free)"
    if number in DENIED:
        owner, user = f"{folder.stat().st_uid}:{folder.stat().st_gid}", f"{os.getuid()}:{os.getgid()}"
        return f" ({folder} belongs to {owner}, this runs as {user}: chown it to {user}, or docker run --user {owner})"
    return ""


def check_writable(folder: Path) -> None:
    """Check that `folder`, or its nearest existing parent, is writable. Leave nothing behind.

    Raises:
        UserError: it is not.
    """
    with explain_os_errors(folder):
        tempfile.TemporaryFile(dir=_existing_parent(folder)).close()


def check_free_space(folder: Path, needed: float) -> None:
    """Check that the disk of `folder` has `needed` bytes free.

    Raises:
        UserError: it has not.
    """
    free = shutil.disk_usage(_existing_parent(folder)).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e6:,.1f} MB free, but {needed / 1e6:,.1f} MB are needed; free some space, or "
            "choose another --output-dir (CATAE_OUTPUT_DIR)"
        )


def _existing_parent(path: Path) -> Path:
    """Return `path` if it is a folder, otherwise its nearest existing parent."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically. Raise like `atomic_write`."""
    with atomic_write(path, size=len(data)) as file:
        file.write(data)


@contextmanager
def atomic_write(path: Path, size: int = 0, before: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` at the end: readers see the old file or the new one, never a part.

    The bytes are synced to disk before the rename, and the rename after it. An error leaves the old file unchanged.

    Args:
        path: the file.
        size: bytes to write, if known.
        before: new name of the old file; None deletes it.

    Raises:
        UserError: the disk is full, read-only or broken, or access is denied.
    """
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
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
    """Write `value` to `path` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read the JSON file `path`.

    Raises:
        UserError: the file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def read_manifest(path: Path, of: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read and check the manifest `path` of a folder.

    Args:
        path: the JSON file.
        of: what it describes, such as 'run'.
        kinds: required keys and the types of their values.

    Raises:
        UserError: the file cannot be read, or is not such a manifest.
    """
    manifest = read_json(path)
    if not (
        isinstance(manifest, dict)
        and all(name in manifest and isinstance(manifest[name], kinds[name]) for name in kinds)
    ):
        raise UserError(f"{path} is not the manifest of a {of}; delete {path.parent}, or restore it from a backup")
    return manifest


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to disk."""
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
    temporary = link.with_name(f"{PARTIAL}{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    temporary.replace(link)
