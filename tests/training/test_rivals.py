"""The benchmark of training next to others' ways: `benchmarks/training/throughput.py` and `rivals.py`."""

import importlib.util
import re
import subprocess
import sys

import pytest

from catae.model.autoencoder import AutoEncoder, convolutions

BENCHMARKS = "benchmarks"


def measured(pytestconfig: pytest.Config, *arguments: str) -> str:
    """What the benchmark prints for a few dozen drawn cats."""
    command = [sys.executable, str(pytestconfig.rootpath / BENCHMARKS / "training.py"), "drawn:48", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_rivals_train_the_same_net_as_catae(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(pytestconfig.rootpath / BENCHMARKS)
    from rivals import plain_net

    theirs = [layer for half in plain_net().values() for layer in convolutions(half)]
    for plain, ours in zip(theirs, convolutions(AutoEncoder(width=32, activation="relu")), strict=True):
        assert isinstance(ours, type(plain))
        assert (plain.kernel_size, plain.stride, plain.padding) == (ours.kernel_size, ours.stride, ours.padding)
        assert plain.weight.shape == ours.weight.shape
        assert plain.bias.shape == ours.bias.shape[:1]  # that from the code is not the same in all of the 4x4 places


@pytest.mark.slow
def test_each_way_is_measured_or_said_to_be_missing(pytestconfig: pytest.Config) -> None:
    said = measured(pytestconfig, "--repeats", "1", "--epochs", "1")
    for label, package in (
        ("(a)", "torch"),
        ("(b)", "lightning"),
        ("(c)", "pythae"),
        ("(d)", "catae"),
        ("(e)", "catae"),
    ):
        (row,) = re.findall(rf"^\| {re.escape(label)} [^|,]+ \|(.*)\|$", said, re.M)
        if not importlib.util.find_spec(package):
            assert row.strip() == f"{package} is not installed"
            continue
        medians = [float(cell.split()[0].replace(",", "")) for cell in row.split("|")[:-1]]
        assert len(medians) == 7
        assert min(medians) > 0
        assert medians[-1] < 2  # the test L1 of pictures in [-1, 1]
    assert "A step costs 0.324 GFLOP a picture" in said


@pytest.mark.slow
def test_what_is_learned_is_compared_epoch_by_epoch(pytestconfig: pytest.Config) -> None:
    said = measured(pytestconfig, "--losses", "2", "--seeds", "3")
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if re.match(r"\| (3|mean) ", line)]
    assert [row[:2] for row in rows] == [["3", "1"], ["3", "2"], ["3", "best"], ["mean", "best"]]
    first, second, best = ([float(cell) for cell in row[2:5]] for row in rows[:3])
    assert first != second  # the states are each epoch's own
    assert best == [min(pair) for pair in zip(first, second, strict=True)]
