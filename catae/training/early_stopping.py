"""Stop training when the loss stops improving."""

from dataclasses import asdict, dataclass


@dataclass
class EarlyStopping:
    """Count the epochs in a row without improvement.

    An epoch improves only if `loss < best * (1 - min_delta)`, strictly. Only then does `best` change, so a series of
    tiny improvements ends as well.

    Attributes:
        patience: epochs in a row without improvement after which training stops.
        min_delta: smallest improvement that counts, as a fraction of `best`.
        best: the best loss so far.
        best_epoch: number of its epoch; 0 before the first.
        waited: epochs in a row without improvement.
    """

    patience: int
    min_delta: float
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0

    def update(self, epoch: int, loss: float) -> bool:
        """Record the loss of epoch number `epoch`, and return whether it is the best so far."""
        if self.best is not None and not loss < self.best * (1 - self.min_delta):
            self.waited += 1
            return False
        self.best, self.best_epoch, self.waited = loss, epoch, 0
        return True

    @property
    def should_stop(self) -> bool:
        """Whether patience is exhausted."""
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, int | float | None]:
        """Return everything needed to resume, as plain values."""
        return asdict(self)
