"""Export a trained model: as safetensors, ONNX and `torch.export`, with a model card.

The encoder, the decoder and the whole autoencoder take batches of any size. Before a file is written, its output is
compared with the model's, on noise and on test images.
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

TOLERANCE = 1e-4  # the largest difference from PyTorch, in a pixel of [-1, 1] or a dimension of a latent
TRIAL_SIZE = 5  # inputs of each kind to compare on, alone and as a batch
ONNX = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Part:
    """The autoencoder, or a half of it, exported as a file of its own.

    Attributes:
        name: the file's name without its suffix.
        module: in evaluation mode.
        input_name: the name of the input in ONNX.
        output_name: the name of the output in ONNX.
        trials: batches to compare on, each of at most `TRIAL_SIZE`.
    """

    name: str
    module: nn.Module
    input_name: str
    output_name: str
    trials: Sequence[Tensor]


def export(source: Run, formats: Sequence[str], out: Path) -> None:
    """Write a run's model to the folder `out`, with a model card, README.md, in Hugging Face's layout.

    Args:
        source: the run.
        formats: any of `FORMATS`. 'safetensors' writes model.safetensors; 'onnx' and 'torch' write encoder, decoder and
            autoencoder, as .onnx and as .pt2.
        out: the folder.

    Raises:
        UserError: a library is missing, an earlier version of catae wrote the run, or `out` cannot be written to.
        ArithmeticError: the output of an exported file differs from the model's.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder with --out")
    if "monitor" not in source.read()["training"]:  # the model card needs it
        raise UserError(f"cannot export run {source.id}: an earlier version of catae wrote it; train again")
    model = weights.load(source.model)
    model_parts = parts(model, [noise(model.image_size), *_test_images(source)])
    for name in formats:
        FORMATS[name](model, model_parts, out)
    model_card.write_model_card(source, model, formats, out / "README.md")


@torch.no_grad()
def parts(model: AutoEncoder, images: Sequence[Tensor]) -> list[Part]:
    """Return encoder, decoder and autoencoder, with inputs to compare on: images, their latents, samples of N(0, I).

    Args:
        model: in evaluation mode.
        images: batches of float32 (at most `TRIAL_SIZE`, 3, size, size) in [-1, 1]; the first is noise.
    """
    latents = [torch.randn(TRIAL_SIZE, model.latent_dim, 1, 1, generator=rng.generator(0, "codes to compare on"))]
    latents += [model.encoder(batch) for batch in images[1:]]
    return [
        Part("encoder", model.encoder, "images", "latents", images),
        Part("decoder", model.decoder, "latents", "images", latents),
        Part("autoencoder", model, "images", "reconstructions", images),
    ]


def noise(size: int) -> Tensor:
    """Return images that no model has learned: uniform in [-1, 1], (TRIAL_SIZE, 3, size, size)."""
    return 2 * torch.rand(TRIAL_SIZE, 3, size, size, generator=rng.generator(0, "pictures to compare on")) - 1


def _test_images(source: Run) -> list[Tensor]:
    """Return one batch of the run's first test images, or nothing if the image set is no longer in the cache."""
    store = Path(source.read()["data"]["store"])
    if not store.is_dir():
        return []
    images = ImageStore(store)
    test = split.open_split(source.split, images.names).test
    return [transforms.normalize(images.take(test[:TRIAL_SIZE]))]


def _safetensors(model: AutoEncoder, parts: Sequence[Part], out: Path) -> None:
    weights.save(model, out / "model.safetensors")


def _onnx(model: AutoEncoder, parts: Sequence[Part], out: Path) -> None:
    if missing := [name for name in ONNX if find_spec(name) is None]:
        raise UserError(f"exporting to ONNX needs {', '.join(missing)}: pip install 'catae[onnx]'")
    for part in parts:
        data = onnx_bytes(part, weights.metadata(model))
        _compare_with_model(f"{part.name}.onnx", onnx_function(data), part)
        files.write_bytes(out / f"{part.name}.onnx", data)


def onnx_bytes(part: Part, facts: dict[str, Any]) -> bytes:
    """Return a part as ONNX, with `facts` in its metadata under `catae`, as in the header of safetensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            part.module,
            (part.trials[0],),
            input_names=[part.input_name],
            output_names=[part.output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces, with absolute paths of this machine
    proto.metadata_props.add(key=weights.HEADER, value=json.dumps(facts))
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def onnx_function(data: bytes) -> Callable[[Tensor], Tensor]:
    """Return a function that runs an ONNX model with onnxruntime, on as many threads as PyTorch uses."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()
    return lambda batch: torch.from_numpy(session.run(None, {model_input.name: batch.numpy(force=True)})[0])


def _torch(model: AutoEncoder, parts: Sequence[Part], out: Path) -> None:
    for part in parts:
        data = torch_bytes(part, weights.metadata(model))
        _compare_with_model(f"{part.name}.pt2", torch.export.load(io.BytesIO(data)).module(), part)
        files.write_bytes(out / f"{part.name}.pt2", data)


def torch_bytes(part: Part, facts: dict[str, Any]) -> bytes:
    """Return a part as `torch.export.save` writes it, with `facts` in its extra file `catae`."""
    module = copy.deepcopy(part.module).to(
        memory_format=torch.contiguous_format
    )  # other formats are not saved as whole tensors
    program = torch.export.export(module, (part.trials[0],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has absolute paths of this machine
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={weights.HEADER: json.dumps(facts)})
    return file.getvalue()


@torch.no_grad()
def _compare_with_model(name: str, exported: Callable[[Tensor], Tensor], part: Part) -> None:
    """Compare an exported function with the model, on single inputs and on batches.

    Raises:
        ArithmeticError: they differ by more than `TOLERANCE`.
    """
    for trial in part.trials:
        for batch in (trial[:1], trial):
            difference = (exported(batch) - part.module(batch)).abs().max().item()
            if not difference <= TOLERANCE:
                raise ArithmeticError(
                    f"{name} differs from the model by {difference:.2g} on a batch of {len(batch)}; "
                    f"at most {TOLERANCE:g} is allowed"
                )


FORMATS: dict[str, Callable[[AutoEncoder, Sequence[Part], Path], None]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch": _torch,
}
