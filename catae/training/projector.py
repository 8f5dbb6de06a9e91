"""TensorBoard's projector: codes in space, turned and searched by hand, with the pictures that they stand for."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import metadata
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig, SpriteMetadata
from torch import Tensor

from catae.data.decode import Pixels
from catae.system import files
from catae.system.text import printable
from catae.training import tensorboard

# torch's `SummaryWriter.add_embedding` writes the same files. It writes them in place, after an event file of its own:
# a running TensorBoard can look for latents too early, and each attempt leaves one more event file. In a temporary
# folder, copied from there, it would save about 20 lines. But TensorBoard would show the name with ':00000' at its end,
# and the numbers would take twice as many bytes (2.5 MB, not 1.2 MB, for 990 images).
SIDE = 64  # pixels of a picture: a sheet of 1,000 has 2,048, and the projector takes up to 8,192
CODES, NAMES, SPRITE = "codes.tsv", "names.tsv", "sprite.png"


def write(folder: Path, codes: Tensor, names: Sequence[str], pixels: Pixels) -> None:
    """Writes codes, names and pictures for the projector, in the place of what an earlier process has written.

    They lie where `events.write_final` writes, and are to be there first: a TensorBoard that is running looks for codes
    only when a folder with events is new.

    Args:
        folder: of the event log.
        codes: (pictures, latent_dim, 1, 1).
        names: of the pictures.
        pixels: of the pictures, uint8 (pictures, side, side, 3).
    """
    place, side = folder / tensorboard.FINAL, pixels.shape[1]
    table = BytesIO()
    np.savetxt(table, codes.flatten(1).numpy(), "%.6g", delimiter="\t")
    files.write_bytes(place / CODES, table.getvalue())
    files.write_bytes(place / NAMES, "".join(f"{printable(name)}\n" for name in names).encode())
    data = BytesIO()
    Image.fromarray(sprite(pixels)).save(data, "PNG")
    files.write_bytes(place / SPRITE, data.getvalue())
    shown = EmbeddingInfo(
        tensor_name=f"latents of {len(names)} test pictures",
        tensor_path=CODES,
        metadata_path=NAMES,
        sprite=SpriteMetadata(image_path=SPRITE, single_image_dim=(side, side)),
    )
    config = text_format.MessageToString(ProjectorConfig(embeddings=[shown]))
    files.write_bytes(place / metadata.PROJECTOR_FILENAME, config.encode())


def sprite(pixels: Pixels) -> Pixels:
    """Pictures in rows on one square sheet, as the projector wants them: uint8 (rows * side, rows * side, 3)."""
    rows, side = math.ceil(math.sqrt(len(pixels))), pixels.shape[1]
    places = np.full((rows * rows, *pixels.shape[1:]), 255, np.uint8)
    places[: len(pixels)] = pixels
    return places.reshape(rows, rows, side, side, 3).swapaxes(1, 2).reshape(rows * side, rows * side, 3)
