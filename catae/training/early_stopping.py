"""Early stopping: training ends when the error hardly decreases."""

from dataclasses import asdict, dataclass


@dataclass
class EarlyStopping:
    """Counts the epochs in a row that are no better than the best.

    An epoch is better only if `loss < best * (1 - min_delta)`, strictly; only then `best` moves, so that a slow
    creep of tiny gains does end. Whether to stop follows from the state alone, which is plain numbers.
    """

    patience: int
    min_delta: float
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0

    def update(self, epoch: int, loss: float) -> bool:
        """Takes the loss of epoch number `epoch`, and tells whether it is the best so far."""
        if self.best is not None and not loss < self.best * (1 - self.min_delta):
            self.waited += 1
            return False
        self.best, self.best_epoch, self.waited = loss, epoch, 0
        return True

    @property
    def should_stop(self) -> bool:
        """Whether the patience is at its end."""
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, int | float | None]:
        """All of it, in plain values."""
        return asdict(self)
