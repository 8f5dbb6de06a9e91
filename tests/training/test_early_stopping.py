import math

import pytest

from catae.training.early_stopping import EarlyStopping


@pytest.mark.parametrize(
    ("losses", "stops_after", "best_epoch"),
    [
        ([1.0, 0.9, 0.8, 0.7], None, 4),
        ([1.0, 1.0, 1.0, 1.0], 4, 1),
        ([1.0, 0.89, 0.95, 0.95, 0.8, 0.8, 0.8, 0.8], 8, 5),
        # A loss improves only if it is below best * (1 - min_delta), strictly; 0.9 equals that limit.
        ([1.0, 0.9, 0.9, 0.9], 4, 1),
        ([1.0, 0.8999, 0.9, 0.9], None, 2),
        # Small improvements leave `best` unchanged, so they add up to a better epoch or end the training.
        ([1.0, 0.95, 0.92, 0.89, 0.85], None, 4),
        ([1.0, 0.97, 0.94, 0.91], 4, 1),
        ([1.0, math.nan, math.nan, math.nan], 4, 1),
        ([math.inf, 1.0], None, 2),
    ],
)
def test_training_stops_when_the_loss_stops_improving(
    losses: list[float], stops_after: int | None, best_epoch: int
) -> None:
    stopping = EarlyStopping(patience=3, min_delta=0.1)
    stopped = None
    for epoch, loss in enumerate(losses, 1):
        assert stopped is None
        better = stopping.update(epoch, loss)
        assert better == (stopping.best_epoch == epoch)
        stopped = epoch if stopping.should_stop else None
    assert stopped == stops_after
    assert stopping.best_epoch == best_epoch


def test_it_resumes_from_its_state() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.001)
    for epoch, loss in enumerate([1.0, 0.5, 0.5], 1):
        stopping.update(epoch, loss)
    again = EarlyStopping(**stopping.state_dict())  # type: ignore[arg-type]
    assert again == stopping
    assert not again.update(4, 0.5)
    assert again.should_stop
