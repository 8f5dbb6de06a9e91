"""How long a single picture or code takes in PyTorch and, exported to ONNX, in onnxruntime.

    python benchmarks/inference/export.py

The default net, in float32, with weights as they begin: time doesn't depend on them. Both compute on as many threads,
in turn, some hundred times each; the medians are shown.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import onnxruntime
import torch
from torch import Tensor

from catae.inference import export
from catae.model import weights
from catae.model.autoencoder import AutoEncoder
from catae.system import hardware

WARM = 20


def medians(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each work, the works taken in turn."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(WARM + repeats):
        for work, taken in zip(works, times, strict=True):
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
    return [statistics.median(taken[WARM:]) for taken in times]


@torch.inference_mode()
def beside(part: export.Part, given: Tensor, facts: dict[str, int | str], repeats: int) -> str:
    """A row of the table."""
    made = export.runtime(export.onnx_bytes(part, facts))
    in_pytorch, in_onnxruntime = medians([lambda: part.module(given), lambda: made(given)], repeats)
    faster = in_pytorch / in_onnxruntime
    return f"| {part.name} | {in_pytorch * 1000:.2f} | {in_onnxruntime * 1000:.2f} | {faster:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    threads = hardware.use_threads(options.threads)
    model = AutoEncoder().to(memory_format=torch.channels_last).eval()  # as `weights.load` gives it
    parts = export.parts(model, [export.noise(model.image_size)])
    print(
        f"{hardware.describe()['cpu']}, {threads} threads, batch 1, medians of {options.repeats}; "
        f"PyTorch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n"
    )
    print("| part | PyTorch, ms | onnxruntime, ms | times as fast |\n|---|---:|---:|---:|")
    for part in parts:
        print(beside(part, part.trial[0][:1], weights.metadata(model), options.repeats), flush=True)


if __name__ == "__main__":
    main()
