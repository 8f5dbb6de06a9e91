"""Compare training in two processes with training in one. Most of each test's time is the start of PyTorch."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torchrun
from conftest import ROOT
from torchrun import EPOCHS, job_settings

from catae import settings
from catae.data.image_store import ImageStore
from catae.pipeline.torchrun import fit_run
from catae.run import Run
from catae.training import tensorboard


def by_one_process(output_dir: Path) -> Run:
    trained = fit_run(job_settings(output_dir), settings.origins())
    assert trained
    return trained


@pytest.fixture(scope="module")
def one_process_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return by_one_process(tmp_path_factory.mktemp("one"))


def last_loss(run: Run) -> float:
    return tensorboard.read_scalars(run.events)["loss/test"][EPOCHS]


def without_its_last_epoch(run: Run, folder: Path) -> Path:
    """Copy the run's output folder, as if the run had been interrupted in the last epoch."""
    shutil.copytree(run.path.parent.parent, folder, symlinks=True)
    copy = Run(folder / "runs" / run.id)
    (copy.checkpoints / "last-previous.pt").replace(copy.checkpoints / "last.pt")
    copy.record(state="interrupted")
    return folder


def test_two_processes_compute_the_steps_of_one(synthetic_images: ImageStore) -> None:
    """Up to rounding, as float64 shows. In float32, Adam amplifies it by dividing small gradients by themselves."""
    command = [*torchrun.TORCHRUN, *torchrun.SINGLE_HOST, "--nproc-per-node", "2"]
    ran = subprocess.run(
        [*command, str(ROOT / "tests/two_ranks.py"), str(synthetic_images.path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=torchrun.environment(),
    )
    assert ran.returncode == 0, ran.stderr
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert sorted(each["rank"] for each in results) == [0, 1]
    for each in results:
        assert each["float64"]["weights"] < 1e-9
        assert each["float32"]["weights"] < 1e-2
        assert each["float32"]["losses"] < 1e-4
        assert each["bfloat16"]["losses"] < 1e-2
        assert each["evaluation"] < 1e-6
        assert all(each[dtype]["equal to rank 0"] for dtype in ("float64", "float32", "bfloat16"))


def test_two_processes_write_the_same_files_as_one(one_process_run: Run, two_process_run: Run) -> None:
    def files_of(run: Run) -> list[str]:
        return sorted(str(file.relative_to(run.path)) for file in run.path.rglob("*") if "tfevents" not in file.name)

    assert files_of(two_process_run) == files_of(one_process_run)
    assert len(list(two_process_run.path.parent.iterdir())) == 1
    (one, two) = (run.read() for run in (one_process_run, two_process_run))
    assert two["state"] == one["state"] == "finished"
    assert two["split"] == one["split"]
    assert two["training"]["best_loss"] == pytest.approx(one["training"]["best_loss"], rel=0.02)
    assert two_process_run.identity(job_settings(Path())) == one_process_run.identity(job_settings(Path()))


@pytest.mark.slow
def test_a_killed_process_is_restarted_with_an_identical_result(two_process_run: Run, tmp_path: Path) -> None:
    process = torchrun.fit(job_settings(tmp_path, resume="never"), "--max-restarts", "3")
    try:
        run = Run(tmp_path / "latest")
        deadline = time.monotonic() + 400
        while not (run.checkpoints / "last-previous.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        torchrun.find_rank(1, process.pid).kill()
        code, out, err = torchrun.wait(process)
    finally:
        torchrun.kill(process)
    assert code == 0, err
    assert "another process of this training has ended" in err or "interrupted" in err
    assert "resuming after epoch " in err
    restarted = Run(Path(out.removesuffix("\n")))
    assert restarted.read()["attempts"] == 2
    assert len(list(restarted.path.parent.iterdir())) == 1
    assert torchrun.weights(restarted) == torchrun.weights(two_process_run)


def test_one_process_resumes_a_run_of_two(two_process_run: Run, tmp_path: Path) -> None:
    resumed = by_one_process(without_its_last_epoch(two_process_run, tmp_path / "out"))
    assert resumed.id == two_process_run.id
    assert resumed.read()["training"]["epochs"] == EPOCHS
    assert last_loss(resumed) == pytest.approx(last_loss(two_process_run), rel=1e-4)


@pytest.mark.slow
def test_two_processes_resume_a_run_of_one(one_process_run: Run, tmp_path: Path) -> None:
    process = torchrun.fit(job_settings(without_its_last_epoch(one_process_run, tmp_path / "out")))
    code, out, err = torchrun.wait(process)
    assert code == 0, err
    assert f"resuming after epoch {EPOCHS - 1} and 0 batches" in err
    resumed = Run(Path(out.removesuffix("\n")))
    assert resumed.id == one_process_run.id
    assert last_loss(resumed) == pytest.approx(last_loss(one_process_run), rel=1e-4)


def test_processes_with_different_settings_are_one_line(tmp_path: Path) -> None:
    words = ["python", "-m", "catae", "fit", *torchrun.flags(job_settings(tmp_path))]
    script = 'CATAE_SEED=$RANK exec "$0" "${@:2}"'
    words[0] = torchrun.TORCHRUN[0]
    command = [*torchrun.TORCHRUN, *torchrun.SINGLE_HOST, "--nproc-per-node", "2", "--no-python", "bash", "-c", script]
    ran = subprocess.run(
        [*command, words[0], "", *words[1:]],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=torchrun.environment(),
    )
    assert ran.returncode != 0
    assert "catae: process 1 has a different seed than the main process: give all hosts the same images" in ran.stderr
    assert "catae/training/trainer.py" not in ran.stderr  # no traceback
