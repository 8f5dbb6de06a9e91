"""A trained model as files for others: safetensors, ONNX and PyTorch's own `torch.export`, with a model card.

The encoder, the decoder and both take batches of any size. A file is written only once what it gives is what the model
gives, on noise and on pictures.
"""

import copy
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from catae.data import split, transforms
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.inference import model_card
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.run import Run
from catae.system import files, rng

TOLERANCE = 1e-4  # the largest difference from PyTorch, in a pixel of [-1, 1] or a number of a code
TRIED = 5  # pictures of each kind, alone and together
ONNX = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Part:
    """The model or a half of it, as a file of its own.

    Attributes:
        name: the file's, without its ending.
        module: in evaluation mode.
        given: the input's name.
        made: the output's name.
        trial: batches to compare on, each of `TRIED`.
    """

    name: str
    module: nn.Module
    given: str
    made: str
    trial: Sequence[Tensor]


def export(source: Run, formats: Sequence[str], out: Path) -> None:
    """Writes the model of a run to the folder `out`, with a model card, README.md, in the layout of Hugging Face.

    Args:
        source: the run.
        formats: any of `FORMATS`. 'safetensors' gives model.safetensors, 'onnx' and 'torch' give encoder, decoder and
            autoencoder, as .onnx and as .pt2.
        out: the folder.

    Raises:
        UserError: a library is missing, or nothing can be written to `out`.
        ArithmeticError: what was made differs from the model.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder with --out")
    model = weights.load(source.model)
    model_parts = parts(model, [noise(model.image_size), *_test_pictures(source)])
    for name in formats:
        FORMATS[name](model, model_parts, out)
    model_card.write(source, model, formats, out / "README.md")


@torch.no_grad()
def parts(model: AutoEncoder, pictures: Sequence[Tensor]) -> list[Part]:
    """Encoder, decoder and both, with what to compare them on: these pictures, their codes, and samples of N(0, I).

    Args:
        model: in evaluation mode.
        pictures: batches of float32 (`TRIED` at most, 3, size, size) in [-1, 1]; the first is of noise.
    """
    codes = [torch.randn(TRIED, model.latent_dim, 1, 1, generator=rng.generator(0, "codes to compare on"))]
    codes += [model.encoder(some) for some in pictures[1:]]
    return [
        Part("encoder", model.encoder, "pictures", "codes", pictures),
        Part("decoder", model.decoder, "codes", "pictures", codes),
        Part("autoencoder", model, "pictures", "restored", pictures),
    ]


def noise(size: int) -> Tensor:
    """Pictures that no model has learned: uniform in [-1, 1], (TRIED, 3, size, size)."""
    return 2 * torch.rand(TRIED, 3, size, size, generator=rng.generator(0, "pictures to compare on")) - 1


def _test_pictures(source: Run) -> list[Tensor]:
    """The first test pictures of the run, if they are still where it has read them: one batch, or none."""
    store = Path(source.read()["data"]["store"])
    if not store.is_dir():
        return []
    images = ImageStore(store)
    test = split.open_split(source.split, images.names).test
    return [transforms.normalize(images.take(test[:TRIED]))]


def _safetensors(model: AutoEncoder, parts: Sequence[Part], out: Path) -> None:
    weights.save(model, out / "model.safetensors")


def _onnx(model: AutoEncoder, parts: Sequence[Part], out: Path) -> None:
    if missing := [name for name in ONNX if find_spec(name) is None]:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'catae[onnx]'")
    for part in parts:
        data = onnx_bytes(part, weights.metadata(model))
        _compare(f"{part.name}.onnx", runtime(data), part)
        files.write_bytes(out / f"{part.name}.onnx", data)


def onnx_bytes(part: Part, facts: dict[str, Any]) -> bytes:
    """A part as ONNX, with `facts` in its metadata under `catae`, as in the header of safetensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            part.module,
            (part.trial[0],),
            input_names=[part.given],
            output_names=[part.made],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]  # where it stands in our code, by absolute paths
    proto.metadata_props.add(key=weights.HEADER, value=json.dumps(facts))
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def runtime(data: bytes) -> Callable[[Tensor], Tensor]:
    """What computes an ONNX model with onnxruntime, on as many threads as PyTorch."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda batch: torch.from_numpy(session.run(None, {given.name: batch.numpy(force=True)})[0])


def _torch(model: AutoEncoder, parts: Sequence[Part], out: Path) -> None:
    for part in parts:
        data = torch_bytes(part, weights.metadata(model))
        _compare(f"{part.name}.pt2", torch.export.load(io.BytesIO(data)).module(), part)
        files.write_bytes(out / f"{part.name}.pt2", data)


def torch_bytes(part: Part, facts: dict[str, Any]) -> bytes:
    """A part as `torch.export.save` writes it, with `facts` in its extra file `catae`."""
    module = copy.deepcopy(part.module).to(memory_format=torch.contiguous_format)  # others are no whole tensors there
    program = torch.export.export(module, (part.trial[0],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where it stands in our code, by absolute paths
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={weights.HEADER: json.dumps(facts)})
    return file.getvalue()


@torch.no_grad()
def _compare(name: str, made: Callable[[Tensor], Tensor], part: Part) -> None:
    """Compares what was made with the model, on single pictures or codes and on several.

    Raises:
        ArithmeticError: they differ by more than `TOLERANCE`.
    """
    for batch in part.trial:
        for some in (batch[:1], batch):
            difference = (made(some) - part.module(some)).abs().max().item()
            if not difference <= TOLERANCE:
                raise ArithmeticError(
                    f"{name} is not the model: on a batch of {len(some)} they differ by {difference:.2g}"
                )


FORMATS: dict[str, Callable[[AutoEncoder, Sequence[Part], Path], None]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch": _torch,
}
