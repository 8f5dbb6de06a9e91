"""Measure the cost of checkpoints: saving as a share of an epoch, and the time lost when the job is killed.

    python benchmarks/training/checkpoint.py ../shared/data/cats.zip

First, one process alternates between an epoch of the default model and saving its two checkpoints. Then the whole
command is killed in the middle of its second epoch and run again, and the time to the end of that epoch is taken.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="images, as for catae train --source")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each measurement (default: %(default)s)")
    options = parser.parse_args()
    source = str(Path(options.source).resolve()) if Path(options.source).exists() else options.source
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        measure_saving(source, options.repeats)
        for number in range(options.repeats):
            measure_time_lost(source, number)


def measure_saving(source: str, repeats: int) -> None:
    """Print the time of saving the checkpoints, next to that of an epoch."""
    from catae import settings
    from catae.data import ingest, split
    from catae.system import hardware
    from catae.training import checkpoint, loop, trainer

    resolved = settings.Settings(source=source)
    hardware.use_threads(0)
    images, _ = ingest.read(source, Path("artifacts/cache"))
    parts = split.split(images.keys)
    state = trainer.Trainer(resolved)
    epochs, saves = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        state.run_epoch(images, parts)
        trained = time.perf_counter()
        for name in (loop.BEST, loop.LAST):
            checkpoint.save(Path("checkpoints") / name, state.state_dict())
        epochs.append(trained - start)
        saves.append(time.perf_counter() - trained)
    size = Path("checkpoints", loop.LAST).stat().st_size / 1e6
    epoch, saving = statistics.median(epochs), statistics.median(saves)
    print(
        f"epoch {epoch:.2f} s, saving two checkpoints of {size:.1f} MB {saving:.3f} s: {saving / epoch:.2%} of an epoch"
    )


def measure_time_lost(source: str, number: int) -> None:
    """Kill the command in the middle of its second epoch, run it again, and print how much time that cost."""
    command = [sys.executable, "-m", "catae", "train", "--source", source, "--output-dir", f"artifacts-{number}"]
    command += ["--max-epochs", "2"]
    Path(f"artifacts-{number}").mkdir()
    Path(f"artifacts-{number}/cache").symlink_to(Path("artifacts/cache").resolve())
    times: dict[str, float] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("computing in"):  # after the initialization
                times["training"] = time.monotonic()
            if line.startswith("epoch 1/2"):
                times["epoch"] = time.monotonic()
                break
        epoch = times["epoch"] - times["training"]
        time.sleep(epoch / 2)
        os.killpg(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("resuming after epoch 1 "):
                resumed = time.monotonic()
            if line.startswith("epoch 2/2"):
                ended = time.monotonic()
                os.killpg(process.pid, signal.SIGKILL)
                break
    print(
        f"killed in the middle of an epoch of {epoch:.1f} s: restarted and loaded the checkpoint in "
        f"{resumed - killed:.1f} s; lost {ended - killed - epoch / 2:.1f} s in total, relative to a run without a kill"
    )


if __name__ == "__main__":
    main()
