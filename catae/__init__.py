"""catae: train a convolutional autoencoder on small pictures, and see what it learned.

The library knows pictures, tensors and files, and no orchestrator; `flows/` composes it into the job.
Read it in the order of the data: sources, decoding, images, duplicates, store, split, batches, model, training, latent,
scores, figures, gallery, report. `load` gives a trained model to Python code.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catae.inference.pretrained import Pretrained


def load(path_or_run: str | Path = "latest") -> "Pretrained":
    """A trained model: `.encode`, `.decode`, `.reconstruct`, `.sample` and `.interpolate`; see `catae.pretrained`.

        model = catae.load("latest")
        codes = model.encode(picture)
        model.sample(8)[0].save("new.png")

    Args:
        path_or_run: 'latest', the id of a run in CATAE_OUTPUT_DIR, the folder of a run or of an export, or a file of
            safetensors.

    Raises:
        UserError: there is no such model, or the file holds something else.
    """
    from catae.inference import pretrained  # here, since PyTorch takes seconds to load

    return pretrained.load(path_or_run)
