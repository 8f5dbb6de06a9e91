"""Save and load checkpoints: PyTorch archives of tensors and plain values, which `torch.load` opens.

The previous checkpoint stays next to the new one until that is safely on the disk, so that there is always a complete
one.
"""

import io
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from catae.errors import UserError
from catae.system import files

logger = logging.getLogger(__name__)

FOLDER = 0x10  # the bit of a record's external attributes
OLD_FORMAT = b"catae checkpoint"  # how files of earlier versions begin


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` atomically. The previous file is kept next to it.

    PyTorch writes a zip archive with the CRC-32 of each record. `torch.load(path, weights_only=True)` reads it.
    """
    with files.atomic_write(path, before=previous(path)) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # PyTorch finishes its archive even after a failed write, and then reports "unexpected pos". Raise the
            # cause, a full disk or a signal, or the task would be retried.
            raise error.__context__ or error from None


def load(path: Path) -> dict[str, Any]:
    """Return the state in `path`.

    Raises:
        UserError: the file cannot be read, is damaged, or contains anything but tensors and plain values.
    """
    try:
        content = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if content.getbuffer()[: len(OLD_FORMAT)] == OLD_FORMAT:
        raise UserError(f"{path} is in the format of an earlier version of catae; train again to replace it")
    try:
        # `torch.load` does not check the CRCs of all records.
        with zipfile.ZipFile(content) as archive:
            # PyTorch reads a record that is marked as a folder as random bytes, and no CRC covers that mark.
            damaged = archive.testzip() or any(record.external_attr & FOLDER for record in archive.infolist())
        if damaged:
            raise UserError(f"{path} is incomplete or corrupt: its checksum does not match")
        content.seek(0)
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UnpicklingError as error:
        raise UserError(f"{path} contains something other than tensors and plain values") from error
    except Exception as error:
        if "allocate memory" in str(error):  # the file is not to blame: `hardware.explain_oom` explains it
            raise
        raise UserError(f"{path} is incomplete or corrupt: it is not a complete PyTorch archive") from error
    return state


def load_newest(path: Path, identity: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the state in `path`, or the previous one if that is damaged or of another training; None if there is none.

    Args:
        path: as given to `save`.
        identity: digests of the data, the split and the settings, which the state must contain as its `identity`.
    """
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        try:
            state = load(candidate)
        except UserError as error:
            logger.warning("%s; trying the previous checkpoint", error)
            continue
        found = state.get("identity")
        if found == identity:
            return state
        changed = [name for name in identity if not isinstance(found, dict) or found.get(name) != identity[name]]
        what = " and ".join(changed) or "training"
        logger.warning("%s is of another %s; trying the previous checkpoint", candidate, what)
    return None


def previous(path: Path) -> Path:
    """Return where the previous checkpoint of `path` is kept."""
    return path.with_stem(f"{path.stem}-previous")
