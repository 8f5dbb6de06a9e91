"""Measure the latency of a single image or latent in PyTorch and, exported to ONNX, in onnxruntime.

    python benchmarks/inference/export.py

The default model runs in float32 with initial weights, since the latency does not depend on them. Both backends use the
same number of threads and alternate. The output is medians.
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

WARMUP = 20


def median_seconds(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of each function. Calls alternate between the functions."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(WARMUP + repeats):
        for function, seconds in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[WARMUP:]) for seconds in times]


@torch.inference_mode()
def compare_backends(part: export.Part, example: Tensor, metadata: dict[str, int | str], repeats: int) -> str:
    """Return the latency of a part of the model in both backends, as a row of the table."""
    run_onnx = export.onnx_function(export.onnx_bytes(part, metadata))
    in_pytorch, in_onnxruntime = median_seconds([lambda: part.module(example), lambda: run_onnx(example)], repeats)
    speedup = in_pytorch / in_onnxruntime
    return f"| {part.name} | {in_pytorch * 1000:.2f} | {in_onnxruntime * 1000:.2f} | {speedup:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="0 means all CPUs (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=300, help="calls of each (default: %(default)s)")
    options = parser.parse_args()
    threads = hardware.use_threads(options.threads)
    model = AutoEncoder().to(memory_format=torch.channels_last).eval()  # as `weights.load` returns it
    parts = export.parts(model, [export.noise(model.image_size)])
    print(
        f"{hardware.describe()['cpu']}, {threads} threads, batch 1, medians of {options.repeats}; "
        f"PyTorch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n"
    )
    print("| part | PyTorch, ms | onnxruntime, ms | speedup |\n|---|---:|---:|---:|")
    for part in parts:
        print(compare_backends(part, part.trials[0][:1], weights.metadata(model), options.repeats), flush=True)


if __name__ == "__main__":
    main()
