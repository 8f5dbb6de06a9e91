"""Test the log line of an epoch."""

from dataclasses import replace

from catae.training import metrics


def test_line_has_80_columns_and_the_time_until_max_epochs() -> None:
    epoch = metrics.Epoch(10, 0.5, 0.6, None, 0.00025, 12345.0, 99.0, is_best=True)
    line = metrics.line(epoch, 100)
    assert line == "epoch  10/100  train 0.5000  test 0.6000*  lr 0.00025  12,345 img/s  ETA 2:28:30"
    assert len(line) <= 80
    assert "*" not in metrics.line(replace(epoch, is_best=False), 100)
