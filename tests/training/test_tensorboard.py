import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard import SummaryWriter

from catae.errors import UserError
from catae.training import tensorboard


def test_every_point_of_a_long_log_is_read_back(tmp_path: Path) -> None:
    # By default, TensorBoard's reader keeps 10,000 points of a tag.
    with tensorboard.open_log(tmp_path) as log:
        for epoch in range(1, 12_001):
            log._scalars.add_scalar("loss/train", 1 / epoch, epoch)
    curve = tensorboard.read_scalars(tmp_path)["loss/train"]
    assert list(curve) == list(range(1, 12_001))
    assert list(curve.values()) == pytest.approx([1 / epoch for epoch in range(1, 12_001)])


def test_after_a_restart_the_later_point_of_each_epoch_counts(tmp_path: Path) -> None:
    for first, offset in ((1, 0.0), (3, 0.5)):
        with tensorboard.open_log(tmp_path, first_epoch=first) as log:
            for epoch in range(first, first + 4):
                log.scalars(epoch, {"loss/test": epoch + offset})
    expected = {1: 1, 2: 2, 3: 3.5, 4: 4.5, 5: 5.5, 6: 6.5}
    assert tensorboard.read_scalars(tmp_path)["loss/test"] == expected
    # TensorBoard shows the same: the later event file discards the earlier points.
    log = EventAccumulator(str(tmp_path / "scalars"))
    log.Reload()
    assert {point.step: point.value for point in log.Scalars("loss/test")} == expected
    assert len(log.Scalars("loss/test")) == 6


def test_duplicate_points_are_read_once_without_a_purge_step(tmp_path: Path) -> None:
    for offset in (0.0, 0.5):
        with SummaryWriter(tmp_path / "scalars") as writer:
            for epoch in (1, 2, 3):
                writer.add_scalar("loss/test", epoch + offset, epoch)
    assert list(tensorboard.read_scalars(tmp_path)["loss/test"]) == [1, 2, 3]


def test_images_are_written_outside_the_folder_of_scalars(tmp_path: Path) -> None:
    with tensorboard.open_log(tmp_path) as log:
        log.scalars(1, {"loss/test": 1.0})
        log.images(1, "restored", np.zeros((4, 16, 16, 3), np.uint8))
    assert list(tensorboard.read_scalars(tmp_path)) == ["loss/test"]
    assert list((tmp_path / "pictures").iterdir())


def test_a_folder_without_a_log_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no TensorBoard scalars"):
        tensorboard.read_scalars(tmp_path)


def test_points_stay_in_order_if_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for first, clock in ((1, now), (3, now - 86_400), (5, now - 3_600)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        with tensorboard.open_log(tmp_path, first_epoch=first) as log:
            for epoch in range(first, first + 3):
                log.scalars(epoch, {"loss/test": epoch + first / 10})
    expected = [(1, 1.1), (2, 2.1), (3, 3.3), (4, 4.3), (5, 5.5), (6, 6.5), (7, 7.5)]
    assert list(tensorboard.read_scalars(tmp_path)["loss/test"].items()) == [(s, pytest.approx(v)) for s, v in expected]
    log = EventAccumulator(str(tmp_path / "scalars"))
    log.Reload()
    assert [(point.step, point.value) for point in log.Scalars("loss/test")] == [
        (s, pytest.approx(v)) for s, v in expected
    ]


def test_a_damaged_log_is_read_up_to_the_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tensorboard.open_log(tmp_path) as log:
        for epoch in range(1, 6):
            log.scalars(epoch, {"loss/test": 1 / epoch})
    (file,) = (tmp_path / "scalars").iterdir()
    whole, chance = file.read_bytes(), random.Random(0)
    lengths = set()
    for _ in range(200):
        data = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randrange(5)):
            data[chance.randrange(len(data)) - 1 :][:1] = bytes([chance.randrange(256)])
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(data)
        curve = tensorboard.read_scalars(tmp_path).get("loss/test", {})
        lengths.add(len(curve))
        assert all(value == pytest.approx(1 / step) for step, value in curve.items())
    assert lengths == {0, 1, 2, 3, 4, 5}

    # A record with valid checksums that is not an event.
    payload = b"\x0a\xff\xff\xff\xff\x0f" + bytes(30)
    length = struct.pack("<Q", len(payload))
    record = length + struct.pack("<I", masked_crc32c(length)) + payload + struct.pack("<I", masked_crc32c(payload))
    file.write_bytes(record)
    assert tensorboard.read_scalars(tmp_path) == {}
    assert "is damaged; points after the damage are missing" in caplog.text
