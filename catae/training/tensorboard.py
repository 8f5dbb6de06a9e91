"""Write and read TensorBoard's files: scalars, sample images, final scores and latents."""

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # the documented `api` module imports TensorFlow
from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig, SpriteMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import image, scalar

from catae.data.decode import Pixels
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.data.transforms import normalize, to_uint8
from catae.errors import UserError
from catae.model.autoencoder import AutoEncoder
from catae.settings import Settings
from catae.system import files, rng
from catae.system.text import printable

logger = logging.getLogger(__name__)

# Images are in a folder of their own: TensorBoard's reader would load all of them to read the scalars.
SCALARS, IMAGES = "scalars", "pictures"
# So are the final results: the HPARAMS tab shows every scalar of a folder that contains hyperparameters.
FINAL = "final"
SAMPLES, EVERY = 32, 5  # images, and epochs between two looks at them, which take 0.1 s each
LATENTS, NAMES, SPRITE = "codes.tsv", "names.tsv", "sprite.png"
SPRITE_SIDE = 64  # pixels of an image: a sheet of 1,000 images has 2,048, and the projector's limit is 8,192


@dataclass(frozen=True)
class EventLog:
    """Write scalars and images of an epoch to event files."""

    folder: Path
    _scalars: SummaryWriter
    _images: SummaryWriter

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write one value per tag at step `epoch`, and sync it to the disk.

        A checkpoint that contains this epoch must not outlive its points.
        """
        for tag, value in values.items():
            self._scalars.add_scalar(tag, value, epoch)
        self._scalars.flush()
        for log in (self.folder / SCALARS).iterdir():
            files.sync(log)

    def images(self, epoch: int, tag: str, pixels: Pixels) -> None:
        """Write images, uint8 (images, height, width, 3), under `tag` at step `epoch`."""
        self._images.add_images(tag, pixels, epoch, dataformats="NHWC")
        self._images.flush()


@contextmanager
def open_log(folder: Path, first_epoch: int = 1) -> Iterator[EventLog]:
    """Open an event log in `folder`, and close it at the end, also after an error.

    Points of `first_epoch` and later from an earlier process are discarded, in TensorBoard as well.
    """
    with files.explain_os_errors(folder), _quiet_threads(), ExitStack() as stack:
        _rename_existing(folder)
        scalars, images = (
            stack.enter_context(SummaryWriter(folder / part, purge_step=first_epoch)) for part in (SCALARS, IMAGES)
        )
        yield EventLog(folder, scalars, images)


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Suppress tracebacks of TensorBoard's threads that cannot write: the next call raises the same error."""
    original = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            original(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = original


def _rename_existing(folder: Path) -> None:
    """Rename existing event files so that a new one sorts after them, even if the clock was set back.

    TensorBoard reads event files in the order of their names, which begin with the time.
    """
    for number, log in enumerate(sorted(folder.glob("*/events.out.tfevents.*"))):
        rest = log.name.split(".", 4)[4]
        log.rename(log.with_name(f"events.out.tfevents.{number:010d}.{rest}"))


@dataclass(frozen=True)
class Samples:
    """Test images to reconstruct and latents to decode during training, the same in every epoch.

    Attributes:
        images: float32 (images, 3, size, size) in [-1, 1].
        latents: of N(0, I), float32 (images, latent_dim, 1, 1).
    """

    images: Tensor
    latents: Tensor

    @classmethod
    def select(cls, images: ImageStore, split: Split, settings: Settings) -> "Samples":
        """Select the first test images, and draw latents by the seed."""
        generator = rng.generator(settings.seed, "noise to watch")
        latents = torch.randn(SAMPLES, settings.latent_dim, 1, 1, generator=generator)
        return cls(normalize(images.take(split.test[:SAMPLES])), latents)

    @torch.inference_mode()
    def write(self, model: AutoEncoder, epoch: int, log: EventLog) -> None:
        """Write the model's outputs for them, in the first epoch and in every fifth."""
        if epoch != 1 and epoch % EVERY:
            return
        model.eval()
        log.images(epoch, "reconstructions", to_uint8(model(self.images)))
        log.images(epoch, "samples", to_uint8(model.decoder(self.latents)))


def write_final(
    folder: Path, name: str, settings: Mapping[str, Any], scores: Mapping[str, float], figure: Path, epoch: int
) -> None:
    """Write the final results, by which TensorBoard compares runs. Replace those of an earlier process.

    Args:
        folder: of the event log.
        name: of the run in the HPARAMS tab.
        settings: bools, numbers and strings by name; the tab shows those that differ between runs.
        scores: by tag.
        figure: a PNG for the IMAGES tab, tagged with its file name.
        epoch: the epoch that the results belong to.
    """
    with Image.open(figure) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    summaries = [
        hparams_pb(settings, trial_id=name),
        *(scalar(tag, value) for tag, value in scores.items()),  # type: ignore[no-untyped-call]
        image(figure.stem, pixels, dataformats="HWC"),  # type: ignore[no-untyped-call]
    ]
    data, now = BytesIO(), time.time()
    writer = RecordWriter(data)
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for summary in summaries:
        writer.write(Event(wall_time=now, step=epoch, summary=summary).SerializeToString())
    files.write_bytes(folder / FINAL / "final.tfevents", data.getvalue())


def write_embedding(folder: Path, latents: Tensor, names: Sequence[str], pixels: Pixels) -> None:
    """Write latents, names and images for TensorBoard's projector. Replace those of an earlier process.

    Call it before `write_final`, which writes to the same folder: a running TensorBoard looks for latents only when a
    folder with event files is new.

    torch's `SummaryWriter.add_embedding` writes the same files, but in place and after an event file of its own, so a
    running TensorBoard can look for latents too early, and each attempt leaves one more event file. Copied from a
    temporary folder, its files would save 20 lines. But TensorBoard would show the name with a trailing ':00000', and
    990 images of 64x64 take 1.9 s and 2.5 MB of numbers, where this function takes 1.2 s and 1.2 MB.

    Args:
        folder: of the event log.
        latents: (images, latent_dim, 1, 1).
        names: of the images.
        pixels: of the images, uint8 (images, side, side, 3).
    """
    final, side = folder / FINAL, pixels.shape[1]
    table = BytesIO()
    np.savetxt(table, latents.flatten(1).numpy(), "%.6g", delimiter="\t")
    files.write_bytes(final / LATENTS, table.getvalue())
    files.write_bytes(final / NAMES, "".join(f"{printable(name)}\n" for name in names).encode())
    png = BytesIO()
    Image.fromarray(sprite(pixels)).save(png, "PNG")
    files.write_bytes(final / SPRITE, png.getvalue())
    embedding = EmbeddingInfo(
        tensor_name=f"latents of {len(names)} test images",
        tensor_path=LATENTS,
        metadata_path=NAMES,
        sprite=SpriteMetadata(image_path=SPRITE, single_image_dim=(side, side)),
    )
    config = text_format.MessageToString(ProjectorConfig(embeddings=[embedding]))
    files.write_bytes(final / PROJECTOR_FILENAME, config.encode())


def sprite(pixels: Pixels) -> Pixels:
    """Arrange images in rows on a square sheet, as the projector expects: uint8 (rows * side, rows * side, 3)."""
    rows, side = math.ceil(math.sqrt(len(pixels))), pixels.shape[1]
    cells = np.full((rows * rows, *pixels.shape[1:]), 255, np.uint8)
    cells[: len(pixels)] = pixels
    return cells.reshape(rows, rows, side, side, 3).swapaxes(1, 2).reshape(rows * side, rows * side, 3)


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Read every scalar of the event log in `folder`: for each tag, the value by step, in order.

    If a step was written twice, as after a restart, the later value counts. A damaged log is read up to the damage.

    Raises:
        UserError: there is no log.
    """
    if not any((folder / SCALARS).glob("*tfevents*")):
        raise UserError(f"{folder} contains no TensorBoard scalars; train first")
    # 0 means all: by default, the reader keeps a random 10,000 points of a tag.
    log = EventAccumulator(str(folder / SCALARS), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    try:
        log.Reload()
    except DecodeError as error:
        logger.warning("%s is damaged; points after the damage are missing: %s", folder, error)
    tags = log.Tags()["scalars"]
    return {tag: dict(sorted((point.step, point.value) for point in log.Scalars(tag))) for tag in tags}
