"""The training's log in TensorBoard's format: written as it goes, read back for the curves."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # `api`, which is to be public, asks for TensorFlow
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import image, scalar

from catae.data.decode import Pixels
from catae.errors import UserError
from catae.system import files

logger = logging.getLogger(__name__)

# Pictures are in a folder of their own: TensorBoard's reader would load all of them to get at the scalars.
SCALARS, PICTURES = "scalars", "pictures"
# What is known at the end is in one as well: the tab HPARAMS shows every scalar of the run that it finds settings in.
FINAL = "final"


@dataclass(frozen=True)
class EventLog:
    """Writes scalars and pictures of an epoch."""

    folder: Path
    _scalars: SummaryWriter
    _pictures: SummaryWriter

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """Writes one value for each tag, at the step `epoch`, down to the disk: a state that says that this epoch is
        over must not outlive its points."""
        for tag, value in values.items():
            self._scalars.add_scalar(tag, value, epoch)
        self._scalars.flush()
        for log in (self.folder / SCALARS).iterdir():
            files.sync(log)

    def pictures(self, epoch: int, tag: str, pixels: Pixels) -> None:
        """Writes uint8 (pictures, height, width, 3) under `tag`, at the step `epoch`."""
        self._pictures.add_images(tag, pixels, epoch, dataformats="NHWC")
        self._pictures.flush()


@contextmanager
def writing(folder: Path, first_epoch: int = 1) -> Iterator[EventLog]:
    """A log in `folder`, closed at the end, whatever happens.

    What an earlier process has logged of `first_epoch` and later ones counts no more, in TensorBoard as well.
    """
    with files.explain_os_errors(folder), _quiet_threads(), ExitStack() as stack:
        _put_first(folder)
        scalars, pictures = (
            stack.enter_context(SummaryWriter(folder / part, purge_step=first_epoch)) for part in (SCALARS, PICTURES)
        )
        yield EventLog(folder, scalars, pictures)


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """A thread of TensorBoard's that can't write says so at the next call; Python would print its traceback as well."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _put_first(folder: Path) -> None:
    """Renames the logs that are there so that a new one comes after them, also if the clock has been put back.

    TensorBoard reads logs in the order of their names, which begin with the time.
    """
    for number, log in enumerate(sorted(folder.glob("*/events.out.tfevents.*"))):
        rest = log.name.split(".", 4)[4]
        log.rename(log.with_name(f"events.out.tfevents.{number:010d}.{rest}"))


def write_final(
    folder: Path, name: str, settings: Mapping[str, Any], scores: Mapping[str, float], picture: Path, epoch: int
) -> None:
    """Writes what TensorBoard compares finished runs by, in the place of what an earlier process has written.

    Args:
        folder: of the log.
        name: what the run is called in the tab HPARAMS.
        settings: bools, numbers and words by name; the tab shows those that differ between runs.
        scores: by tag.
        picture: a PNG for the tab of pictures, called as the file is.
        epoch: the one that all this is of.
    """
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    summaries = [
        hparams_pb(settings, trial_id=name),
        *(scalar(tag, value) for tag, value in scores.items()),  # type: ignore[no-untyped-call]
        image(picture.stem, pixels, dataformats="HWC"),  # type: ignore[no-untyped-call]
    ]
    data, now = BytesIO(), time.time()
    writer = RecordWriter(data)
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for summary in summaries:
        writer.write(Event(wall_time=now, step=epoch, summary=summary).SerializeToString())
    files.write_bytes(folder / FINAL / "final.tfevents", data.getvalue())


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every scalar of the log in `folder`: for each tag, the value at each step, in order.

    Where a step was written twice, as after a restart, the later one counts. Of a damaged log it is what stands before
    the damage.

    Raises:
        UserError: there is no log.
    """
    if not any((folder / SCALARS).glob("*tfevents*")):
        raise UserError(f"{folder} holds no TensorBoard scalars; train first")
    # 0 means all: the reader's default keeps a random 10,000 points of a tag.
    log = EventAccumulator(str(folder / SCALARS), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    try:
        log.Reload()
    except DecodeError as error:
        logger.warning("%s is damaged, and its points are missing: %s", folder, error)
    tags = log.Tags()["scalars"]
    return {tag: dict(sorted((point.step, point.value) for point in log.Scalars(tag))) for tag in tags}
