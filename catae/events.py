"""The training's log in TensorBoard's format: written as it goes, read back for the curves."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from catae import files
from catae.decoding import Pixels
from catae.errors import UserError

# Pictures are in a folder of their own: TensorBoard's reader would load all of them to get at the scalars.
SCALARS, PICTURES = "scalars", "pictures"


@dataclass(frozen=True)
class EventLog:
    """Writes scalars and pictures of an epoch."""

    _scalars: SummaryWriter
    _pictures: SummaryWriter

    def scalars(self, epoch: int, values: Mapping[str, float]) -> None:
        """Writes one value for each tag, at the step `epoch`."""
        for tag, value in values.items():
            self._scalars.add_scalar(tag, value, epoch)
        self._scalars.flush()

    def pictures(self, epoch: int, tag: str, pixels: Pixels) -> None:
        """Writes uint8 (pictures, height, width, 3) under `tag`, at the step `epoch`."""
        self._pictures.add_images(tag, pixels, epoch, dataformats="NHWC")
        self._pictures.flush()


@contextmanager
def writing(folder: Path, first_epoch: int = 1) -> Iterator[EventLog]:
    """A log in `folder`, closed at the end, whatever happens.

    What an earlier process has logged of `first_epoch` and later ones counts no more, in TensorBoard as well.
    """
    with files.telling_of(folder), ExitStack() as stack:
        scalars, pictures = (
            stack.enter_context(SummaryWriter(folder / part, purge_step=first_epoch)) for part in (SCALARS, PICTURES)
        )
        yield EventLog(scalars, pictures)


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every scalar of the log in `folder`: for each tag, the value at each step, in order.

    Where a step was written twice, as after a restart, the later one counts.

    Raises:
        UserError: there is no log.
    """
    if not any((folder / SCALARS).glob("*tfevents*")):
        raise UserError(f"{folder} holds no TensorBoard scalars; train first")
    # 0 means all: the reader's default keeps a random 10,000 points of a tag.
    log = EventAccumulator(str(folder / SCALARS), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    log.Reload()
    return {tag: dict(sorted((point.step, point.value) for point in log.Scalars(tag))) for tag in log.Tags()["scalars"]}
