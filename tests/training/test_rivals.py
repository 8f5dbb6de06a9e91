"""Test the throughput benchmark, `benchmarks/training/throughput.py`, and its implementations in `rivals.py`."""

import importlib.util
import re
import subprocess
import sys

import pytest

from catae.model.autoencoder import AutoEncoder, convolutions

BENCHMARKS = "benchmarks/training"


def run_benchmark(pytestconfig: pytest.Config, *arguments: str) -> str:
    """Run the benchmark on 48 synthetic cats and return its output."""
    command = [sys.executable, str(pytestconfig.rootpath / BENCHMARKS / "throughput.py"), "drawn:48", *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_all_implementations_train_the_same_network(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(pytestconfig.rootpath / BENCHMARKS)
    from rivals import plain_net

    plain_layers = [layer for half in plain_net().values() for layer in convolutions(half)]
    model = AutoEncoder(width=32, activation="relu")
    for plain, layer in zip(plain_layers, convolutions(model), strict=True):
        assert isinstance(layer, type(plain))
        assert (plain.kernel_size, plain.stride, plain.padding) == (layer.kernel_size, layer.stride, layer.padding)
        assert plain.weight.shape == layer.weight.shape
        assert plain.bias.shape == layer.bias.shape


@pytest.mark.slow
def test_each_implementation_is_measured_or_reported_missing(pytestconfig: pytest.Config) -> None:
    output = run_benchmark(pytestconfig, "--repeats", "1", "--epochs", "1")
    for label, package in (
        ("(a)", "torch"),
        ("(b)", "lightning"),
        ("(c)", "pythae"),
        ("(d)", "catae"),
        ("(e)", "catae"),
    ):
        (row,) = re.findall(rf"^\| {re.escape(label)} [^|,]+ \|(.*)\|$", output, re.M)
        if not importlib.util.find_spec(package):
            assert row.strip() == f"{package} is not installed"
            continue
        medians = [float(cell.split()[0].replace(",", "")) for cell in row.split("|")[:-1]]
        assert len(medians) == 7
        assert min(medians) > 0
        assert medians[-1] < 2  # the test L1 of pixels in [-1, 1]
    assert "A step takes 0.324 GFLOP per image" in output


@pytest.mark.slow
def test_losses_are_compared_by_epoch(pytestconfig: pytest.Config) -> None:
    output = run_benchmark(pytestconfig, "--losses", "2", "--seeds", "3")
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if re.match(r"\| (3|mean) ", line)]
    assert [row[:2] for row in rows] == [["3", "1"], ["3", "2"], ["3", "best"], ["mean", "best"]]
    first, second, best = ([float(cell) for cell in row[2:5]] for row in rows[:3])
    assert first != second  # each epoch has its own checkpoint
    assert best == [min(pair) for pair in zip(first, second, strict=True)]
