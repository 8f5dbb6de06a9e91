"""Kills the whole job again and again, at random moments and inside writes, and starts it again until it ends.

    python benchmarks/torture.py --kills 100

What a tormented run leaves must be what an undisturbed one leaves, byte for byte: weights, points of the event files,
pictures, scores, split. The kills are SIGKILLs: of a third of the processes after a random time, of the others by
their own hand at a random call of fsync or rename, which are the seams of every write.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

JOB = """
import os, signal, sys
from pathlib import Path

def deadly(call, at):
    calls = iter(range(1, 10**9))
    def called(*given, **named):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return called

kind, at = sys.argv[2], int(sys.argv[3])
if kind != "none":
    setattr(os, kind, deadly(getattr(os, kind), at))

from catae import machine, run, settings
from flows import tasks

resolved = settings.Settings(
    source="drawn:150", image_size=32, latent_dim=8, width=4, max_epochs=4, batch_size=16, samples=4,
    interpolation_steps=5, checkpoint_minutes=0.001, threads=1, output_dir=Path(sys.argv[1]),
)
machine.use_threads(1)
with run.recorded(resolved, settings.origins()) as new:
    images = tasks.read.fn(new.path, resolved)
    for task in (tasks.divide, tasks.train):
        task.fn(new.path, images, resolved)
    tasks.draw_curves.fn(new.path)
    tasks.reconstruct.fn(new.path, images)
    tasks.generate.fn(new.path, resolved)
    tasks.interpolate.fn(new.path, images, resolved)
    tasks.score.fn(new.path, images, resolved)
    tasks.write_report.fn(new.path)
"""
# What a run leaves, in the order in which it does: the last one that is there says how far the job had come.
PHASES = {
    "report.html": "ended", "interpolation.gif": "scoring", "generated.png": "drawing", "curves.png": "drawing",
    "model.safetensors": "drawing", "checkpoints/last.pt": "training", "split.json": "training",
    "data.json": "splitting",
}  # fmt: skip


FILES = (
    "model.safetensors", "prior.safetensors", "split.json", "data.json", "reconstructions.png", "generated.png",
    "generated-gaussian.png", "curves.png", "interpolation.png", "interpolation.gif",
)  # fmt: skip
KILLS_A_RUN = 6


def start(folder: Path, kind: str = "none", at: int = 0, seconds: float | None = None) -> int:
    """Runs the job, killed at a call or after some seconds; gives its exit code, -9 for a kill."""
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", JOB, str(folder), kind, str(at)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[1]
    if process.returncode not in (0, -9):
        raise SystemExit(f"the job ended with {process.returncode}:\n{said}")
    return process.returncode


def phase(folder: Path) -> str:
    """How far the newest run has come."""
    runs = sorted((folder / "runs").iterdir()) if (folder / "runs").is_dir() else []
    there = (name for file, name in PHASES.items() if runs and (runs[-1] / file).exists())
    return next(there, "reading")


def left(folder: Path) -> dict[str, str]:
    """Digests of what the only run in the folder has left, without times."""
    from catae import checkpoint, events

    (run,) = (folder / "runs").iterdir()
    said = json.loads((run / "run.json").read_text())
    assert said["state"] == "finished"
    found = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}
    curves = events.read_scalars(run / "events")
    found["events"] = str({tag: curves[tag] for tag in ("loss/train", "loss/test", "learning_rate")})
    found["scores"] = str(said["scores"])
    state = checkpoint.load(run / "checkpoints/last.pt")
    found["optimizer"] = str([entry["exp_avg"].sum().item() for entry in state["optimizer"]["state"].values()])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    died: Counter[str] = Counter()
    runs = 0
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        start(Path("calm"))
        expected = left(Path("calm"))
        while died.total() < options.kills:
            folder = Path(f"run-{runs}")
            runs += 1
            for _ in range(min(KILLS_A_RUN, options.kills - died.total())):
                kind = chance.choice(["time", "fsync", "replace"])
                if kind == "time":
                    code = start(folder, seconds=chance.uniform(2, 12))
                else:
                    code = start(folder, kind, chance.randint(1, 60))
                if code == 0:
                    break
                died[f"{kind}, while {phase(folder)}"] += 1
            else:
                start(folder)
            assert left(folder) == expected, folder
    total = died.total()
    print(f"{total} of {total} kills survived, in {runs} runs, each with the same digests as an undisturbed one\n")
    print("| killed by, while | times |\n|---|---|")
    for what, times in sorted(died.items()):
        print(f"| {what} | {times} |")


if __name__ == "__main__":
    main()
