"""catae: train a convolutional autoencoder on cat faces, on a CPU, and see what it learned.

The library works with images, tensors and files. It does not know Prefect; `flows/` wraps it into a flow. Read it in
the order of the data: `data`, `model`, `training`, `latent`, `evaluation`, `report`, `inference`, `sweep`, `pipeline`.
`load` returns a trained model.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catae.inference.pretrained import Pretrained


def load(path_or_run: str | Path = "latest") -> "Pretrained":
    """Return a trained model, with the methods encode, decode, reconstruct, sample and interpolate.

        model = catae.load("latest")
        latents = model.encode(image)
        model.sample(8)[0].save("new.png")

    `catae.inference.pretrained` describes the methods.

    Args:
        path_or_run: 'latest', the id of a run in CATAE_OUTPUT_DIR, the folder of a run or of an export, or a
            safetensors file.

    Raises:
        UserError: there is no such model, or the file is something else.
    """
    from catae.inference import pretrained  # imported here because PyTorch takes seconds to load

    return pretrained.load(path_or_run)
