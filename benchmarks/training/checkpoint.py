"""What safety costs: the saving of states as a share of an epoch, and the time that a kill costs.

    python benchmarks/training/checkpoint.py ../shared/data/cats.zip

In one process an epoch of the default net is trained and its two states are saved, in turn, some times; then the whole
command is killed in the middle of its second epoch and started again, to measure from there to the same place.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    source = str(Path(options.source).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        share_of_an_epoch(source, options.repeats)
        for number in range(options.repeats):
            time_lost(source, number)


def share_of_an_epoch(source: str, repeats: int) -> None:
    from catae import settings
    from catae.data import ingest, split
    from catae.system import hardware
    from catae.training import checkpoint, trainer

    resolved = settings.Settings(source=source)
    hardware.use_threads(0)
    images, _ = ingest.read(source, Path("artifacts/cache"))
    parts = split.split(images.keys)
    state = trainer.Training(resolved)
    epochs, saves = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        state.run_epoch(images, parts)
        trained = time.perf_counter()
        for name in (trainer.BEST, trainer.LAST):
            checkpoint.save(Path("states") / name, state.state_dict())
        epochs.append(trained - begun)
        saves.append(time.perf_counter() - trained)
    size = Path("states", trainer.LAST).stat().st_size / 1e6
    epoch, saving = statistics.median(epochs), statistics.median(saves)
    print(f"an epoch {epoch:.2f} s, its two states of {size:.1f} MB each {saving:.3f} s: {saving / epoch:.2%} of it")


def time_lost(source: str, number: int) -> None:
    """Kills the command half-way through its second epoch, and looks when it has come to where it was."""
    command = [sys.executable, "-m", "catae", "train", "--source", source, "--output-dir", f"artifacts-{number}"]
    command += ["--max-epochs", "2"]
    Path(f"artifacts-{number}").mkdir()
    Path(f"artifacts-{number}/cache").symlink_to(Path("artifacts/cache").resolve())
    lines: dict[str, float] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training on"):
                lines["training"] = time.monotonic()
            if line.startswith("epoch 1/2"):
                lines["epoch"] = time.monotonic()
                break
        epoch = lines["epoch"] - lines["training"]
        time.sleep(epoch / 2)
        os.killpg(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if re.match("going on after epoch 1", line):
                going = time.monotonic()
            if line.startswith("epoch 2/2"):
                ended = time.monotonic()
                os.killpg(process.pid, signal.SIGKILL)
                break
    again = going - killed
    lost = ended - killed - epoch / 2
    print(
        f"killed half-way through an epoch of {epoch:.1f} s: started again and read its state in {again:.1f} s; lost "
        f"in all, against going on without a kill, {lost:.1f} s"
    )


if __name__ == "__main__":
    main()
