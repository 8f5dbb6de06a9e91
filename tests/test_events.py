from pathlib import Path

import numpy as np
import pytest

from catae import events
from catae.errors import UserError


def test_every_point_of_a_long_log_is_read_back(tmp_path: Path) -> None:
    # TensorBoard's reader keeps 10,000 of a tag unless told otherwise.
    with events.writing(tmp_path) as log:
        for epoch in range(1, 12_001):
            log._scalars.add_scalar("loss/train", 1 / epoch, epoch)
    curve = events.read_scalars(tmp_path)["loss/train"]
    assert list(curve) == list(range(1, 12_001))
    assert list(curve.values()) == pytest.approx([1 / epoch for epoch in range(1, 12_001)])


def test_of_a_step_that_was_written_twice_the_later_value_counts(tmp_path: Path) -> None:
    for first, offset in ((1, 0.0), (3, 0.5)):
        with events.writing(tmp_path) as log:
            for epoch in range(first, first + 4):
                log.scalars(epoch, {"loss/test": epoch + offset})
    assert events.read_scalars(tmp_path)["loss/test"] == {1: 1, 2: 2, 3: 3.5, 4: 4.5, 5: 5.5, 6: 6.5}


def test_pictures_dont_slow_the_reading_of_curves(tmp_path: Path) -> None:
    with events.writing(tmp_path) as log:
        log.scalars(1, {"loss/test": 1.0})
        log.pictures(1, "restored", np.zeros((4, 16, 16, 3), np.uint8))
    assert list(events.read_scalars(tmp_path)) == ["loss/test"]
    assert list((tmp_path / "pictures").iterdir())


def test_a_folder_without_a_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no TensorBoard scalars"):
        events.read_scalars(tmp_path)
