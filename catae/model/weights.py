"""The file of a trained model: safetensors with the shape in the header. Loading it executes no code, unlike pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from catae.errors import UserError
from catae.model.autoencoder import AutoEncoder
from catae.system import files

HEADER = "catae"
SHAPE = {"image_size": int, "latent_dim": int, "width": int, "activation": str, "whitened": bool}


def shape(model: AutoEncoder) -> dict[str, int | str]:
    """Return the arguments of `AutoEncoder` that create a model of the same shape."""
    return {name: getattr(model, name) for name in SHAPE}


def metadata(model: AutoEncoder) -> dict[str, int | str]:
    """Return what a user of the file needs: the shape of the model and the normalization of its images."""
    return {**shape(model), "pixels": "RGB, (x / 255 - 0.5) / 0.5, in [-1, 1]"}


def save(model: AutoEncoder, path: Path) -> None:
    """Write the weights to `path`, with the `metadata` in the header."""
    header = {HEADER: json.dumps(metadata(model))}  # one entry: safetensors writes several in random order
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files.write_bytes(path, to_bytes(tensors, header))


def load(path: Path) -> AutoEncoder:
    """Return the model in the file `path`, in evaluation mode.

    Raises:
        UserError: the file cannot be read, or does not hold a model of catae.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
        if "whitened" not in header:
            raise ValueError("an earlier version of catae wrote it; train again")
        # On the meta device, without memory: a forged header may ask for any amount.
        with torch.device("meta"):
            model = AutoEncoder(**{name: kind(header[name]) for name, kind in SHAPE.items()})
        model.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{path} does not hold a model of catae: {str(error).splitlines()[0]}") from error
    model.to(memory_format=torch.channels_last)
    return model.eval()
