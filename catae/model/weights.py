"""The trained model in one safetensors file, with its shape in the header: no pickle, so no code is run."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from catae.errors import UserError
from catae.model.autoencoder import AutoEncoder
from catae.system import files

HEADER = "catae"
SHAPE = {"image_size": int, "latent_dim": int, "width": int, "activation": str}


def shape(model: AutoEncoder) -> dict[str, int | str]:
    """What it takes to make a model of the same shape: the arguments of `AutoEncoder`."""
    return {name: getattr(model, name) for name in SHAPE}


def facts(model: AutoEncoder) -> dict[str, int | str]:
    """What one has to know of the model to use it: its shape, and the normalisation of its pictures."""
    return {**shape(model), "pixels": "RGB, (x / 255 - 0.5) / 0.5, in [-1, 1]"}


def save(model: AutoEncoder, path: Path) -> None:
    """Writes the weights to `path`, with the model's shape and the pictures' normalisation in the header."""
    header = {HEADER: json.dumps(facts(model))}  # one entry: safetensors writes several in an order that changes
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    files.write_bytes(path, to_bytes(tensors, header))


def load(path: Path) -> AutoEncoder:
    """The model in the file `path`, ready to use.

    Raises:
        UserError: the file can't be read, or is not a model of catae's.
    """
    try:
        with safe_open(path, "pt") as file:
            said = json.loads((file.metadata() or {})[HEADER])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - it is no dict
        # In no memory at first: a header that lies may ask for any.
        with torch.device("meta"):
            model = AutoEncoder(**{name: kind(said[name]) for name, kind in SHAPE.items()})
        model.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{path} is no model of catae's: {str(error).splitlines()[0]}") from error
    model.to(memory_format=torch.channels_last)
    return model.eval()
