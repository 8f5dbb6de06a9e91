"""A state of the training in one file, of tensors and plain values only."""

from pathlib import Path
from typing import Any

import torch

from catae import files
from catae.errors import UserError


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path`, whole or not at all."""
    with files.replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Path) -> dict[str, Any]:
    """The state in the file `path`.

    Raises:
        UserError: the file can't be read, or holds something else than tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:  # of a broken file torch.load raises half a dozen kinds
        raise UserError(
            f"{path} is no whole checkpoint: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    return state
