"""Kill the job at random moments and make its disk fail, and check that it resumes to the same results.

    python benchmarks/pipeline/torture.py --kills 100 --faults 40

Results must equal those of an undisturbed run, byte for byte: weights, event file scalars, figures, scores and split.
No partial file may be left. A kill is a SIGKILL after a random time, or at a random write call (`faults.c`), before or
in the middle of it. A fault is a disk that is full, over quota, broken or read-only from a random call on. The job must
then end with one line and exit code 2. Each attempt is a process forked from this one before any computation, so that
PyTorch is imported once.
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
import zipfile
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
# Files of a run, from the last written to the first, and the phase that the job is in once they exist.
PHASES = {
    "report.html": "finishing", "latents.png": "reporting", "interpolation.gif": "scoring", "curves.png": "drawing",
    "priors.safetensors": "drawing", "events": "training", "split.json": "training", "data.json": "splitting",
}  # fmt: skip
FILES = (
    "model.safetensors", "priors.safetensors", "split.json", "data.json", "reconstructions.png", "generated.png",
    "generated-gaussian.png", "curves.png", "interpolation.png", "interpolation.gif", "nearest.png", "latents.png",
)  # fmt: skip
KILL_KINDS = ("time", "kill", "kill", "torn", "torn", "short")
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS")
KILLS_PER_RUN = 6
CATS = Path("cats.zip")  # outside the output folders


def job(output_dir: Path) -> None:
    """Run the stages of the job, without Prefect."""
    from catae import settings
    from catae.pipeline import lifecycle, stages
    from catae.system import hardware

    resolved = settings.Settings(
        source=str(CATS.resolve()), image_size=32, latent_dim=8, width=4, max_epochs=4, batch_size=16, samples=4,
        interpolation_steps=5, checkpoint_minutes=0.001, threads=1, output_dir=output_dir,
    )  # fmt: skip
    hardware.use_threads(1)
    with lifecycle.open_run(resolved, settings.origins()) as run:
        stages.run_stages(run, resolved)


def draw_cats() -> None:
    """Write an archive of 150 synthetic cats: drawing them again took a third of each attempt."""
    from catae.data import synthetic

    with zipfile.ZipFile(CATS, "w") as archive:
        for index in range(150):
            with archive.open(f"{index:03}.png", "w") as file:
                synthetic.draw(index, 0, 32).save(file, "PNG")


def attempt(folder: Path, kind: str = "none", at: int = 0, seconds: float = 0) -> tuple[int, str]:
    """Run the job in a forked process, with a fault at the `at`-th write call, or a kill after some seconds.

    Returns:
        The exit code, which is -9 for a kill, and the error message. Without an error, the number of write calls.
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
        except BaseException:  # noqa: BLE001 - any other error is a failure, which the parent reports
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writer)
    if kind == "time":
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    message = b"".join(iter(lambda: os.read(reader, 2**16), b"")).decode()
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message


def phase(folder: Path) -> str:
    """Return the phase of the newest run."""
    runs = sorted((folder / "runs").iterdir()) if (folder / "runs").is_dir() else []
    phases = (name for file, name in PHASES.items() if runs and (runs[-1] / file).exists())
    return next(phases, "reading" if runs and (runs[-1] / "run.json").exists() else "starting")


def digest_results(folder: Path) -> dict[str, str]:
    """Return digests of the last run's results, without times, and the names of all files."""
    from catae.training import checkpoint, tensorboard

    run = max((folder / "runs").iterdir())
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["state"] == "finished"
    assert (folder / "latest").resolve() == run.resolve()
    digests = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}
    curves = tensorboard.read_scalars(run / "events")
    digests["events"] = str({tag: curves[tag] for tag in ("loss/train", "loss/test", "learning_rate")})
    digests["scores"] = str(manifest["scores"])
    state = checkpoint.load(run / "checkpoints/last.pt")
    digests["optimizer"] = str([entry["exp_avg"].sum().item() for entry in state["optimizer"]["state"].values()])
    # The job has one best epoch. If a fault repeats it, its state is saved again, and there is a previous one.
    names = sorted(path.name for path in run.rglob("*") if path.name != "best-previous.pt")
    digests["files"] = str([name for name in names if "tfevents" not in name])
    digests["sets"] = str(sorted(path.name for path in (folder / "cache").iterdir()))
    return digests


def torture(kills: int, faults: int, seed: int) -> None:
    """Run the job undisturbed, then with kills and with faults, and print the results."""
    rng = random.Random(seed)
    draw_cats()
    start = time.monotonic()
    code, message = attempt(Path("reference"))
    seconds = time.monotonic() - start
    assert code == 0, message
    expected, calls = digest_results(Path("reference")), int(message)
    print(f"an undisturbed job makes {calls} write calls")
    run_kills(kills, rng, expected, calls, seconds)
    run_faults(faults, rng, expected, calls)


def run_kills(kills: int, rng: random.Random, expected: dict[str, str], calls: int, seconds: float) -> None:
    """Kill jobs, up to 6 times each, until `kills` kills are done, and compare their results."""
    killed: Counter[tuple[str, str]] = Counter()
    runs = 0
    while killed.total() < kills:
        folder = Path(f"run-{runs}")
        runs += 1
        for _ in range(min(KILLS_PER_RUN, kills - killed.total())):
            kind = rng.choice(KILL_KINDS)
            code, message = attempt(folder, kind, rng.randint(1, calls), rng.uniform(0, seconds))
            assert code in (0, -9), f"{kind}: {message}"
            if code == 0:
                break
            killed[phase(folder), "a random time" if kind == "time" else read_hit()] += 1
        else:
            code, message = attempt(folder)
            assert code == 0, message
        assert digest_results(folder) == expected, folder
        shutil.rmtree(folder)
    print(f"{kills} of {kills} kills survived, in {runs} runs, all with the digests of the undisturbed run\n")
    print_table("phase of the kill, call", killed)


def run_faults(faults: int, rng: random.Random, expected: dict[str, str], calls: int) -> None:
    """Make the disk of `faults` jobs fail, each from a different call on, and compare the results after a resume."""
    failed: Counter[tuple[str, str]] = Counter()
    example: dict[str, str] = {}
    for number in range(faults):
        folder, kind = Path(f"fault-{number}"), ERRORS[number % len(ERRORS)]
        at = 1 + (number * calls) // faults + rng.randrange(max(1, calls // faults))
        code, message = attempt(folder, kind, at)
        if code == 0:  # a faster job saves fewer checkpoints within its epochs, and ended before the call
            shutil.rmtree(folder)
            code, message = attempt(folder, kind, rng.randint(1, calls // 2))
        assert code == 2, f"{kind}: {code}: {message}"
        assert "\n" not in message, message
        failed[f"{kind}, {phase(folder)}", read_hit()] += 1
        example[kind] = message.replace(str(Path.cwd()), ".")
        code, message = attempt(folder)
        assert code == 0, message
        assert digest_results(folder) == expected, folder
        shutil.rmtree(folder)
    print(f"\n{faults} of {faults} faults reported in one line with exit code 2, and resumed to the same digests\n")
    print_table("fault, phase, call", failed)
    print("\nThe last error message of each kind:\n")
    print("\n".join(f"- {kind}: `{line}`" for kind, line in example.items()))


def print_table(title: str, hits: Counter[tuple[str, str]]) -> None:
    """Print the number of hits by phase (rows) and kind of call (columns), and the files that were hit."""
    phases = ["starting", "reading", *reversed(list(dict.fromkeys(PHASES.values())))]
    rows = sorted(
        {row for row, _ in hits}, key=lambda row: (row.rpartition(", ")[0], phases.index(row.split(", ")[-1]))
    )
    columns = sorted({what.split(" of ")[0] for _, what in hits})
    print(f"| {title} | {' | '.join(columns)} | total |\n|{'---|' * (len(columns) + 2)}")
    for row in [*rows, "total"]:
        counts = Counter[str]()
        for (hit_row, what), times in hits.items():
            if row in (hit_row, "total"):
                counts[what.split(" of ")[0]] += times
        print(f"| {row} | {' | '.join(str(counts[column] or '') for column in columns)} | {counts.total()} |")
    names = sorted({what.partition(" of ")[2] for _, what in hits} - {""})
    print(f"\nFiles and folders hit: {', '.join(name for name in names if not name.startswith('.'))}.")


def read_hit() -> str:
    """Return the call that was hit, and the kind of file."""
    call, _, path = Path("hit").read_text().splitlines()[-1].partition(" ")
    Path("hit").unlink()
    name = re.sub(r"^\.writing-\d+-", "new ", Path(path).name)
    if "tfevents" in name:
        name = "an event file"
    if re.fullmatch(r"\d{8}-\d{6}.*", name):
        name = "run folder"
    return f"{call} of {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default: %(default)s)")
    parser.add_argument("--faults", type=int, default=40, help="number of disk faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if "LD_PRELOAD" not in os.environ:
            library = Path(scratch, "faults.so")
            subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
            environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONUNBUFFERED": "1"}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)
        # Imported once, before the forks, with what the stages import later: 2.3 s of CPU time each.
        import sklearn.mixture
        import sklearn.neighbors  # noqa: F401
        import torch._dynamo  # noqa: F401

        import catae.pipeline.stages  # noqa: F401

        os.chdir(scratch)
        torture(options.kills, options.faults, options.seed)


if __name__ == "__main__":
    main()
