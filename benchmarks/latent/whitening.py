"""Compare two whitenings of a run's latents by the distance of random samples from test images.

    python benchmarks/latent/whitening.py artifacts/latest --samples 8

The exported model is whitened by the mean and the covariance of the train latents. Whitening by their second moments
alone would need no shift, and so no 1x1 convolution. Each is measured on several draws of 512 samples: the distance of
one draw varies by up to 4 %.
"""

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

from catae.data import loader, split
from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.evaluation import samples
from catae.evaluation.sliced_wasserstein import sliced_wasserstein
from catae.latent import space
from catae.latent.priors import Normal
from catae.model.autoencoder import AutoEncoder
from catae.model.linalg import moments, principal
from catae.run import Run
from catae.system import hardware, rng
from catae.training import loop


def distances(model: AutoEncoder, matrix: Tensor, shift: Tensor, test: Pixels, draws: int) -> list[float]:
    """Return the distance of each draw of N(shift, matrix), decoded, from the test images."""
    directions, squares = principal(matrix, len(matrix))
    basis = directions * squares.clamp(min=0).sqrt()[:, None]
    found = []
    for seed in range(draws):
        noise = Normal(len(matrix)).sample(len(test), seed).flatten(1).double()
        pixels = space.decode(model, (noise @ basis + shift).float()[..., None, None])
        found.append(sliced_wasserstein(pixels, test, rng.generator(0, "patches")).mean)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--samples", type=int, default=8, help="draws of 512 samples (default: %(default)s)")
    options = parser.parse_args()
    hardware.use_threads(0)
    print("| run | norm of the mean | by second moments | by mean and covariance | difference |\n|---|---|---|---|---|")
    for path in options.runs:
        run = Run(path.resolve())
        images = ImageStore(Path(run.read()["data"]["store"]))
        parts = split.open_split(run.split, images.names)
        model = loop.load_best(run.checkpoints)
        latents = space.encode(model, loader.ordered_loader(images, parts.train)).flatten(1).double()
        mean, covariance = moments(latents)
        second = latents.T @ latents / len(latents)
        norm = (mean @ torch.linalg.solve(second, mean)).sqrt().item()  # after whitening by second moments
        _, test = samples.select_real(images, parts, seed=0)

        by_second = distances(model, second, torch.zeros_like(mean), test, options.samples)
        by_both = distances(model, covariance, mean, test, options.samples)
        cells = [f"{statistics.mean(found):.1f} ({min(found):.1f}–{max(found):.1f})" for found in (by_second, by_both)]
        ratio = statistics.mean(by_second) / statistics.mean(by_both) - 1
        print(f"| {run.id} | {norm:.2f} | {' | '.join(cells)} | {ratio:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
