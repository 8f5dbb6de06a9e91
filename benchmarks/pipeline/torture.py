"""Kills the whole job again and again, and breaks its disk, and starts it again until it ends.

    python benchmarks/pipeline/torture.py --kills 100 --faults 40

What a tormented run leaves must be what an undisturbed one leaves, byte for byte: weights, points of the event files,
pictures, scores, split; and no half-written file beside it. A kill is a SIGKILL: after a random time, or at a random
call that writes (`faults.c`), before it or in the middle of it. A fault is a disk that is full, over quota, broken or
read-only from a random call on: the job must end with one line and exit code 2. Each attempt is a process of its own,
forked from this one before anything has been computed, so that they needn't all import PyTorch.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
# What a run leaves, in the order in which it does: the last one that is there says how far the job had come.
PHASES = {
    "report.html": "ending", "latents.png": "reporting", "interpolation.gif": "scoring", "curves.png": "drawing",
    "priors.safetensors": "drawing", "events": "training", "split.json": "training", "data.json": "splitting",
}  # fmt: skip
FILES = (
    "model.safetensors", "priors.safetensors", "split.json", "data.json", "reconstructions.png", "generated.png",
    "generated-gaussian.png", "curves.png", "interpolation.png", "interpolation.gif", "nearest.png", "latents.png",
)  # fmt: skip
KINDS_OF_KILLS = ("time", "kill", "kill", "torn", "torn", "short")
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS")
ATTEMPTS = 6  # that are killed, of one run


def job(output_dir: Path) -> None:
    """The steps of the job, without Prefect."""
    from catae import settings
    from catae.pipeline import lifecycle, stages
    from catae.system import hardware

    resolved = settings.Settings(
        source="drawn:150", image_size=32, latent_dim=8, width=4, max_epochs=4, batch_size=16, samples=4,
        interpolation_steps=5, checkpoint_minutes=0.001, threads=1, output_dir=output_dir,
    )  # fmt: skip
    hardware.use_threads(1)
    with lifecycle.open_run(resolved, settings.origins()) as run:
        stages.run_stages(run, resolved)


def attempt(folder: Path, kind: str = "none", at: int = 0, seconds: float = 0) -> tuple[int, str]:
    """Starts the job in a process, to be hit at a writing call or after some seconds.

    Returns:
        Its exit code, -9 for a kill, and what it said of an error; or, undisturbed, how often it wrote.
    """
    from catae.errors import UserError

    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            library = ctypes.CDLL(None)
            library.fault_arm(bytes(folder.resolve()), at, kind.encode(), bytes(Path("hit").resolve()))
            job(folder)
            os.write(writer, str(library.fault_count()).encode())
            code = 0
        except UserError as error:
            os.write(writer, str(error).encode())
            code = 2
        except BaseException:  # noqa: BLE001 - whatever it is, it is told, and ends the torture
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writer)
    if kind == "time":
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    said = b"".join(iter(lambda: os.read(reader, 2**16), b"")).decode()
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def phase(folder: Path) -> str:
    """How far the newest run has come."""
    runs = sorted((folder / "runs").iterdir()) if (folder / "runs").is_dir() else []
    there = (name for file, name in PHASES.items() if runs and (runs[-1] / file).exists())
    return next(there, "reading" if runs and (runs[-1] / "run.json").exists() else "beginning")


def left(folder: Path) -> dict[str, str]:
    """Digests of what the last run in the folder has left, without times; and the names of everything there."""
    from catae.training import checkpoint, tensorboard

    run = max((folder / "runs").iterdir())
    said = json.loads((run / "run.json").read_text())
    assert said["state"] == "finished"
    assert (folder / "latest").resolve() == run.resolve()
    found = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}
    curves = tensorboard.read_scalars(run / "events")
    found["events"] = str({tag: curves[tag] for tag in ("loss/train", "loss/test", "learning_rate")})
    found["scores"] = str(said["scores"])
    state = checkpoint.load(run / "checkpoints/last.pt")
    found["optimizer"] = str([entry["exp_avg"].sum().item() for entry in state["optimizer"]["state"].values()])
    found["files"] = str(sorted(path.name for path in run.rglob("*") if "tfevents" not in path.name))
    found["sets"] = str(sorted(path.name for path in (folder / "cache").iterdir()))
    return found


def torment(kills: int, faults: int, seed: int) -> None:
    """Does it, and prints what came of it."""
    chance = random.Random(seed)
    started = time.monotonic()
    code, said = attempt(Path("calm"))
    seconds = time.monotonic() - started
    assert code == 0, said
    expected, calls = left(Path("calm")), int(said)
    print(f"an undisturbed job writes {calls} times")
    kill(kills, chance, expected, calls, seconds)
    hinder(faults, chance, expected, calls)


def kill(kills: int, chance: random.Random, expected: dict[str, str], calls: int, seconds: float) -> None:
    """Kills jobs, each several times, until so many kills are done."""
    died: Counter[tuple[str, str]] = Counter()
    runs = 0
    while died.total() < kills:
        folder = Path(f"run-{runs}")
        runs += 1
        for _ in range(min(ATTEMPTS, kills - died.total())):
            kind = chance.choice(KINDS_OF_KILLS)
            code, said = attempt(folder, kind, chance.randint(1, calls), chance.uniform(0, seconds))
            assert code in (0, -9), f"{kind}: {said}"
            if code == 0:
                break
            died[phase(folder), "a random time" if kind == "time" else hit()] += 1
        else:
            code, said = attempt(folder)
            assert code == 0, said
        assert left(folder) == expected, folder
        shutil.rmtree(folder)
    print(f"{kills} of {kills} kills survived, in {runs} runs, each with the digests of the calm one\n")
    print_table("killed while, at", died)


def hinder(faults: int, chance: random.Random, expected: dict[str, str], calls: int) -> None:
    """Breaks the disk of so many jobs, each once, from a call on that is another one for each."""
    failed: Counter[tuple[str, str]] = Counter()
    example: dict[str, str] = {}
    for number in range(faults):
        folder, kind = Path(f"fault-{number}"), ERRORS[number % len(ERRORS)]
        at = 1 + (number * calls) // faults + chance.randrange(max(1, calls // faults))
        code, said = attempt(folder, kind, at)
        if code == 0:  # a job on a faster day saves fewer states within its epochs, and had ended before
            shutil.rmtree(folder)
            code, said = attempt(folder, kind, chance.randint(1, calls // 2))
        assert code == 2, f"{kind}: {code}: {said}"
        assert "\n" not in said, said
        failed[f"{kind}, {phase(folder)}", hit()] += 1
        example[kind] = said.replace(str(Path.cwd()), ".")
        code, said = attempt(folder)
        assert code == 0, said
        assert left(folder) == expected, folder
        shutil.rmtree(folder)
    print(f"\n{faults} of {faults} faults told in one line with exit code 2, and gone on from to the same digests\n")
    print_table("fault, while, at", failed)
    print("\nwhat the user sees of each, the last time:\n")
    print("\n".join(f"- {kind}: `{line}`" for kind, line in example.items()))


def print_table(title: str, hits: Counter[tuple[str, str]]) -> None:
    """How often what was hit: a row for each phase, a column for each kind of call; and which files they were."""
    phases = ["beginning", "reading", *reversed(list(dict.fromkeys(PHASES.values())))]
    rows = sorted(
        {row for row, _ in hits}, key=lambda row: (row.rpartition(", ")[0], phases.index(row.split(", ")[-1]))
    )
    columns = sorted({what.split(" of ")[0] for _, what in hits})
    print(f"| {title} | {' | '.join(columns)} | in all |\n|{'---|' * (len(columns) + 2)}")
    for row in [*rows, "in all"]:
        here = Counter[str]()
        for (where, what), times in hits.items():
            if row in (where, "in all"):
                here[what.split(" of ")[0]] += times
        print(f"| {row} | {' | '.join(str(here[column] or '') for column in columns)} | {here.total()} |")
    names = sorted({what.partition(" of ")[2] for _, what in hits} - {""})
    print(f"\nFiles and folders hit: {', '.join(name for name in names if not name.startswith('.'))}.")


def hit() -> str:
    """What the process was doing: the call, and the kind of file."""
    call, _, path = Path("hit").read_text().splitlines()[-1].partition(" ")
    Path("hit").unlink()
    name = re.sub(r"^\.writing-\d+-", "the new ", Path(path).name)
    if "tfevents" in name:
        name = "an event file"
    if re.fullmatch(r"\d{8}-\d{6}.*", name):
        name = "the run's folder"
    return f"{call} of {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if "LD_PRELOAD" not in os.environ:
            library = Path(scratch, "faults.so")
            subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
            here = os.environ | {"LD_PRELOAD": str(library), "PYTHONUNBUFFERED": "1"}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=here, check=False).returncode)
        import catae.pipeline.stages  # noqa: F401 - once, for all attempts

        os.chdir(scratch)
        torment(options.kills, options.faults, options.seed)


if __name__ == "__main__":
    main()
