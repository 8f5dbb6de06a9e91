"""A state of the training in one file, of tensors and plain values only, with a checksum over all of it.

The state before stays beside it until the new one is safe on the disk, so that there is always a whole one.
"""

import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from catae.errors import UserError
from catae.system import files

logger = logging.getLogger(__name__)

MAGIC = b"catae checkpoint 2\n"
DIGEST = 32  # bytes of SHA-256, of the state between it and the magic


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` to `path`, whole or not at all; what was there before is then in the file beside it."""
    with files.atomic_write(path, before=previous(path)) as file:
        file.write(MAGIC)
        hashed = _Hashed(file)
        try:
            torch.save(dict(state), hashed)  # type: ignore[arg-type]
        except RuntimeError as error:
            # PyTorch completes its archive even after a write that failed, and complains of "unexpected pos": what
            # came in between, a full disk or the signal to end, would be taken for a failure that may pass.
            raise error.__context__ or error from None
        file.write(hashed.sha256.digest())


class _Hashed:
    """A file that knows the digest of what went through it: the default's state would be 87 MB more in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self.flush = file, hashlib.sha256(), file.flush

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)


def load(path: Path) -> dict[str, Any]:
    """The state in the file `path`.

    Raises:
        UserError: the file can't be read, is damaged, or holds something else than tensors and plain values.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    data, digest = memoryview(content)[len(MAGIC) : -DIGEST], content[-DIGEST:]
    if not content.startswith(MAGIC) or hashlib.sha256(data).digest() != digest:
        raise UserError(f"{path} is no whole checkpoint")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} holds something else than tensors and plain values: {reason}") from error
    return state


def load_newest(path: Path, identity: Mapping[str, str]) -> dict[str, Any] | None:
    """The state in `path`, or the one before where that is damaged or another training's; None if there is none.

    Args:
        path: as given to `save`.
        identity: what the state says under the same name: of which training it is, by digests of what made it.
    """
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        try:
            state = load(candidate)
        except UserError as error:
            logger.warning("%s; looking for the one before", error)
            continue
        theirs = state.get("identity")
        if theirs == identity:
            return state
        others = [name for name in identity if not isinstance(theirs, dict) or theirs.get(name) != identity[name]]
        what = " and ".join(others) or "training"
        logger.warning("%s is of another %s; looking for the one before", candidate, what)
    return None


def previous(path: Path) -> Path:
    """Where the state before the one in `path` is."""
    return path.with_stem(f"{path.stem}-previous")
