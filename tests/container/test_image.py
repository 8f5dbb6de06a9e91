"""The image, built and run as a user builds and runs it; skipped where no Docker engine answers."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import HARDENED, ROOT, USER, build, docker, require_engine, run_container, wait_for_line

from catae.data import synthetic
from catae.system import files

pytestmark = [pytest.mark.container, pytest.mark.slow]

SMALL = ["--width", "8", "--latent-dim", "16", "--samples", "4", "--interpolation-steps", "5"]
EPOCHS = ["--max-epochs", "6", "--patience", "6"]


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this checkout."""
    require_engine()
    return build("catae:test")


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to mount, with an archive of 300 cats in it, and something to read for people beside it."""
    folder = tmp_path_factory.mktemp("cats")
    folder.chmod(0o755)  # pytest's own are closed to everybody else
    (folder / "README.md").write_text("cats\n")
    with zipfile.ZipFile(folder / "cats.zip", "w") as archive:
        for index in range(300):
            with archive.open(f"{index:03}.png", "w") as file:
                synthetic.draw(index, 0, 64).save(file, "PNG")
    return folder


def volume(path: Path, owner: str = USER) -> Path:
    """A folder on the host that belongs to the container's user."""
    path.mkdir()
    subprocess.run(["chown", owner, path], check=True)
    return path


def mounts(artifacts: Path | str, data: Path | None = None) -> list[str]:
    return ["-v", f"{artifacts}:/artifacts", *(["-v", f"{data}:/data:ro"] if data else [])]


def manifest(artifacts: Path) -> dict[str, object]:
    said: dict[str, object] = json.loads((artifacts / "latest/run.json").read_text())
    return said


@pytest.fixture(scope="module")
def trained(image: str, cats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the whole job leaves on a volume, hardened and undisturbed."""
    artifacts = volume(tmp_path_factory.mktemp("trained") / "artifacts")
    ended = docker("run", "--rm", *HARDENED, *mounts(artifacts, cats), image, "train", *SMALL, *EPOCHS)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"/artifacts/runs/[\d-]+/report.html\n", ended.stdout)
    assert "Traceback" not in ended.stderr
    return artifacts


def test_the_whole_job_runs_hardened_as_any_user_on_the_archive_that_is_mounted(trained: Path) -> None:
    said = manifest(trained)
    assert said["state"] == "finished"
    assert said["data"]["source"] == "/data"  # type: ignore[index]
    assert said["data"]["pictures"] == 300  # type: ignore[index]
    assert (trained / "latest/report.html").stat().st_size > 50_000
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in trained.rglob("*")} == {(12345, 12345)}


def test_threads_follow_the_quota_and_not_the_hosts_cpus(trained: Path, image: str) -> None:
    assert manifest(trained)["machine"]["cpus"] == 1  # type: ignore[index]
    code = (
        "import os, sys; from catae.__main__ import main; main(['cache'])\n"
        "import numpy, torch; from catae.system import hardware; hardware.use_threads(0)\n"
        "numpy.ones((999, 999)) @ numpy.ones((999, 999)); torch.ones(999, 999) @ torch.ones(999, 999)\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    counted = docker("run", "--rm", *HARDENED, "--entrypoint", "python", image, "-c", code)
    assert counted.stdout.splitlines()[-1] == "1", counted.stderr


def test_every_other_command_works_hardened_on_what_was_trained(trained: Path, cats: Path, image: str) -> None:
    name = files.read_json(trained / "latest/split.json")["test"][0]
    for out, arguments in {
        "new.png": ["generate", "--count", "9", "--prior", "gaussian", "--out", "new.png"],
        "walk.gif": ["interpolate", name, name, "--steps", "5", "--out", "walk.gif"],
        "restored.png": ["reconstruct", name, "--out", "restored.png"],
        "cats.html": ["inspect", "/data", "--html", "cats.html"],
    }.items():
        ended = docker("run", "--rm", *HARDENED, *mounts(trained, cats), image, *arguments)
        assert (ended.returncode, ended.stdout) == (0, f"{out}\n"), ended.stderr
        assert (trained / out).stat().st_uid == 12345
    ended = docker("run", "--rm", *HARDENED, *mounts(trained), image, "cache")
    assert "300 pictures" in ended.stdout
    ended = docker("run", "--rm", *HARDENED, image, "prefect", "--version")  # how Prefect's workers start a run
    assert ended.stdout.startswith("3."), ended.stderr
    ended = docker("run", "--rm", *HARDENED, image, "generate", "--count", "0")
    assert (ended.returncode, ended.stderr[:6]) == (2, "catae:")


def test_stopped_and_killed_and_started_again_it_ends_with_the_weights_of_an_undisturbed_run(
    trained: Path, cats: Path, image: str, tmp_path: Path
) -> None:
    artifacts = volume(tmp_path / "artifacts")
    job = [*HARDENED, *mounts(artifacts, cats), image, "train", *SMALL, *EPOCHS]

    with run_container(*job) as container:
        wait_for_line(container, "epoch 2/6")
        begun = time.monotonic()
        docker("stop", container)
        assert time.monotonic() - begun < 10
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout == "143\n"
    assert manifest(artifacts)["state"] == "interrupted"

    with run_container(*job) as container:
        wait_for_line(container, "resuming after epoch")
        wait_for_line(container, "epoch 4/6")
        docker("kill", container)
    assert manifest(artifacts)["state"] == "running"

    ended = docker("run", "--rm", *job)
    assert ended.returncode == 0, ended.stderr
    assert "resuming after epoch" in ended.stderr
    said = manifest(artifacts)
    assert (said["state"], said["attempts"]) == ("finished", 3)
    for file in ("model.safetensors", "priors.safetensors", "split.json", "curves.png", "interpolation.gif"):
        assert (artifacts / "latest" / file).read_bytes() == (trained / "latest" / file).read_bytes(), file


def test_without_a_mount_it_draws_cats_and_says_so_with_settings_from_a_file_and_the_environment(
    image: str, tmp_path: Path
) -> None:
    (tmp_path / "settings").write_text("CATAE_MAX_EPOCHS=1\nCATAE_WIDTH=4\nCATAE_IMAGE_SIZE=32\n")
    name = f"catae-test-{time.time_ns()}"
    try:
        # A named volume, and the image's own user.
        ended = docker(
            "run", "--rm", "--env-file", tmp_path / "settings", "-e", "CATAE_IMAGE_SIZE=16", *mounts(name), image
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.startswith("catae: nothing is mounted at /data: ")
        said, settings = (
            json.loads(docker("run", "--rm", *mounts(name), "--entrypoint", "cat", image, f"latest/{file}.json").stdout)
            for file in ("run", "settings")
        )
    finally:
        docker("volume", "rm", name)
    assert said["data"]["source"] == "drawn:2000"
    assert {settings[name]["value"] for name in ("max_epochs", "width", "image_size")} == {1, 4, 16}


def test_a_volume_that_cant_be_written_is_one_line_that_says_how_to_mend_it(image: str, tmp_path: Path) -> None:
    closed = volume(tmp_path / "closed", owner="0:0")
    ended = docker("run", "--rm", *HARDENED, *mounts(closed), image, "train", "--source", "drawn:80", *SMALL)
    assert (ended.returncode, ended.stdout) == (2, "")
    told = ended.stderr.splitlines()[-1]
    assert told.startswith(
        "catae: cannot write /artifacts: Permission denied (/artifacts belongs to 0:0, this runs as 12345:12345: "
        "chown it to 12345:12345, or docker run --user 0:0); choose another --output-dir"
    )
    assert "training" not in ended.stderr
    assert list(closed.iterdir()) == []


@pytest.mark.cats
def test_the_real_cats_are_trained_on_under_two_gigabytes(image: str, cats_zip: Path, tmp_path: Path) -> None:
    artifacts = volume(tmp_path / "artifacts")
    job = [*HARDENED, *mounts(artifacts, cats_zip.parent), image, "train", "--max-epochs", "1"]
    with run_container(*job) as container:
        assert docker("wait", container, seconds=900).stdout == "0\n", docker("logs", container).stderr
        assert docker("inspect", "--format", "{{.State.OOMKilled}}", container).stdout == "false\n"
    assert manifest(artifacts)["data"]["pictures"] == 15747  # type: ignore[index]


def test_the_image_is_small_and_without_cuda_where_the_cpu_build_of_pytorch_was_to_be_had(image: str) -> None:
    index = re.search(r"^ARG TORCH_INDEX=(\S+)", (ROOT / "Dockerfile").read_text(), re.M)
    assert index
    try:
        urllib.request.urlopen(f"{index[1]}/torch/", timeout=5).close()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(
            f"PyTorch's CPU index can't be reached: the usual build is inside, with CUDA ({type(error).__name__})"
        )
    found = docker(
        "run", "--rm", "--entrypoint", "find", image, "/opt/catae", "-name", "*cuda*.so*", "-o", "-name", "nvidia"
    )
    assert found.stdout == ""
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout) < 1.2e9


def test_nothing_is_left_of_the_building_and_everything_is_compiled(image: str) -> None:
    script = """
        command -v cc gcc g++ make
        ls -d /root/.cache /opt/catae/bin/pip /opt/catae/lib/python3.11/site-packages/pip /build /var/lib/apt/lists/*
        cd /opt/catae/lib/python3.11/site-packages
        for file in catae/*.py flows/*.py prefect/*.py torch/*.py; do
            stem=$(basename $file .py)
            test -e $(dirname $file)/__pycache__/$stem.cpython-311.pyc || echo $file
        done
        find / -xdev -newermt 2000-01-01 -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null
    """
    found = docker("run", "--rm", "--read-only", "--entrypoint", "sh", image, "-c", script)
    assert found.stdout == "", found.stdout


def test_it_is_no_root_that_runs_below_tini_with_labels_and_a_reasoned_lack_of_a_health_check(image: str) -> None:
    (about,) = json.loads(docker("image", "inspect", image).stdout)
    config = about["Config"]
    assert config["User"] == "catae"
    assert config["Entrypoint"][0] == "tini"
    assert config["Cmd"] == ["train"]
    assert config["Healthcheck"]["Test"] == ["NONE"]
    assert config["Labels"]["org.opencontainers.image.title"] == "catae"
    ran = docker("run", "--rm", "--entrypoint", "sh", image, "-c", "id -u; touch $HOME/here && echo writable")
    assert ran.stdout == "1000\nwritable\n"


@pytest.fixture(scope="module")
def again(image: str) -> Iterator[str]:
    """The image once more up to catae's layer, which is built and copied anew, and not taken from the cache."""
    other, dockerfile = f"RUN : {time.time_ns()}\n", (ROOT / "Dockerfile").read_text()
    last = "COPY --from=application /out /\n"
    dockerfile = dockerfile[: dockerfile.rindex(last)] + last  # without the run of the whole job, which takes longer
    for step in ("COPY pyproject.toml", "COPY --from=application"):
        dockerfile = dockerfile.replace(step, other + step)
    yield build("catae:again", dockerfile)
    docker("image", "rm", "catae:again")


def test_two_builds_give_the_same_layer_of_catae(image: str, again: str) -> None:
    def layers(tag: str) -> list[str]:
        found: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", tag).stdout)
        return found

    created = docker("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", again).stdout.splitlines()[0]
    assert "COPY /out / " in created
    assert not created.startswith("0B")
    assert layers(again)[-1] in layers(image)
