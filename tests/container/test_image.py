"""The image, built and run as users do it; skipped without a Docker engine."""

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
    """Build the image of this checkout; return its tag."""
    require_engine()
    return build("catae:test")


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an archive of 300 synthetic cats and a README.md."""
    folder = tmp_path_factory.mktemp("cats")
    folder.chmod(0o755)  # the container's user cannot read pytest's folders
    (folder / "README.md").write_text("cats\n")
    with zipfile.ZipFile(folder / "cats.zip", "w") as archive:
        for index in range(300):
            with archive.open(f"{index:03}.png", "w") as file:
                synthetic.draw(index, 0, 64).save(file, "PNG")
    return folder


def volume(path: Path, owner: str = USER) -> Path:
    """Create a folder that belongs to `owner`, by default the container's user."""
    path.mkdir()
    subprocess.run(["chown", owner, path], check=True)
    return path


def mounts(artifacts: Path | str, data: Path | None = None) -> list[str]:
    """Return the options that mount a folder or a volume at /artifacts, and a folder at /data."""
    return ["-v", f"{artifacts}:/artifacts", *(["-v", f"{data}:/data:ro"] if data else [])]


def read_manifest(artifacts: Path) -> dict[str, object]:
    """Return the manifest of the latest run."""
    manifest: dict[str, object] = json.loads((artifacts / "latest/run.json").read_text())
    return manifest


@pytest.fixture(scope="module")
def trained(image: str, cats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole job in a hardened container; return the folder mounted at /artifacts."""
    artifacts = volume(tmp_path_factory.mktemp("trained") / "artifacts")
    ended = docker("run", "--rm", *HARDENED, *mounts(artifacts, cats), image, "train", *SMALL, *EPOCHS)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"/artifacts/runs/[\d-]+/report.html\n", ended.stdout)
    assert "Traceback" not in ended.stderr
    return artifacts


def test_the_whole_job_runs_hardened_as_any_user_on_a_mounted_archive(trained: Path) -> None:
    manifest = read_manifest(trained)
    assert manifest["state"] == "finished"
    assert manifest["data"]["source"] == "/data"  # type: ignore[index]
    assert manifest["data"]["pictures"] == 300  # type: ignore[index]
    assert (trained / "latest/report.html").stat().st_size > 50_000
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in trained.rglob("*")} == {(12345, 12345)}


def test_the_number_of_threads_follows_the_cpu_quota(trained: Path, image: str) -> None:
    assert read_manifest(trained)["machine"]["cpus"] == 1  # type: ignore[index]
    code = (
        "import os, sys; from catae.__main__ import main; main(['cache'])\n"
        "import numpy, torch; from catae.system import hardware; hardware.use_threads(0)\n"
        "numpy.ones((999, 999)) @ numpy.ones((999, 999)); torch.ones(999, 999) @ torch.ones(999, 999)\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    ended = docker("run", "--rm", *HARDENED, "--entrypoint", "python", image, "-c", code)
    assert ended.stdout.splitlines()[-1] == "1", ended.stderr


def test_every_other_command_works_hardened_on_the_trained_run(trained: Path, cats: Path, image: str) -> None:
    name = files.read_json(trained / "latest/split.json")["test"][0]
    for out, arguments in {
        "new.png": ["generate", "--count", "9", "--prior", "gaussian", "--out", "new.png"],
        "interpolation.gif": ["interpolate", name, name, "--steps", "5"],
        "reconstructed.png": ["reconstruct", name, "--out", "reconstructed.png"],
        "cats.html": ["inspect", "/data", "--html", "cats.html"],
    }.items():
        ended = docker("run", "--rm", *HARDENED, *mounts(trained, cats), image, *arguments)
        assert (ended.returncode, ended.stdout) == (0, f"{out}\n"), ended.stderr
        assert (trained / out).stat().st_uid == 12345
    ended = docker("run", "--rm", *HARDENED, *mounts(trained), image, "cache")
    assert "300 images" in ended.stdout
    ended = docker("run", "--rm", *HARDENED, image, "prefect", "--version")  # Prefect's workers start runs this way
    assert ended.stdout.startswith("3."), ended.stderr
    ended = docker("run", "--rm", *HARDENED, image, "generate", "--count", "0")
    assert (ended.returncode, ended.stderr[:6]) == (2, "catae:")


def test_a_stopped_and_killed_job_resumes_to_the_same_weights(
    trained: Path, cats: Path, image: str, tmp_path: Path
) -> None:
    artifacts = volume(tmp_path / "artifacts")
    job = [*HARDENED, *mounts(artifacts, cats), image, "train", *SMALL, *EPOCHS]

    with run_container(*job) as container:
        wait_for_line(container, "epoch 2/6")
        docker("stop", container)  # kills after 10 s, with exit code 137
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout == "143\n"
    assert read_manifest(artifacts)["state"] == "interrupted"

    with run_container(*job) as container:
        wait_for_line(container, "resuming after epoch")
        wait_for_line(container, "epoch 4/6")
        docker("kill", container)
    assert read_manifest(artifacts)["state"] == "running"

    ended = docker("run", "--rm", *job)
    assert ended.returncode == 0, ended.stderr
    assert "resuming after epoch" in ended.stderr
    manifest = read_manifest(artifacts)
    assert (manifest["state"], manifest["attempts"]) == ("finished", 3)
    for file in ("model.safetensors", "priors.safetensors", "split.json", "curves.png", "interpolation.gif"):
        assert (artifacts / "latest" / file).read_bytes() == (trained / "latest" / file).read_bytes(), file


def test_without_a_mount_it_trains_on_synthetic_cats_with_settings_from_env_file_and_environment(
    image: str, tmp_path: Path
) -> None:
    (tmp_path / "settings").write_text("CATAE_MAX_EPOCHS=1\nCATAE_WIDTH=4\nCATAE_IMAGE_SIZE=32\n")
    name = f"catae-test-{time.time_ns()}"
    try:
        # With a named volume and the image's default user.
        ended = docker(
            "run", "--rm", "--env-file", tmp_path / "settings", "-e", "CATAE_IMAGE_SIZE=16", *mounts(name), image
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.startswith("catae: nothing is mounted at /data: ")
        manifest, settings = (
            json.loads(docker("run", "--rm", *mounts(name), "--entrypoint", "cat", image, f"latest/{file}.json").stdout)
            for file in ("run", "settings")
        )
    finally:
        docker("volume", "rm", name)
    assert manifest["data"]["source"] == "drawn:2000"
    assert {settings[name]["value"] for name in ("max_epochs", "width", "image_size")} == {1, 4, 16}


def test_an_unwritable_volume_is_one_line_with_the_fix(image: str, tmp_path: Path) -> None:
    unwritable = volume(tmp_path / "unwritable", owner="0:0")
    ended = docker("run", "--rm", *HARDENED, *mounts(unwritable), image, "train", "--source", "drawn:80", *SMALL)
    assert (ended.returncode, ended.stdout) == (2, "")
    message = ended.stderr.splitlines()[-1]
    assert message.startswith(
        "catae: cannot write /artifacts: Permission denied (/artifacts belongs to 0:0, this runs as 12345:12345: "
        "chown it to 12345:12345, or docker run --user 0:0); choose another --output-dir"
    )
    assert "training on 7" not in ended.stderr  # the count of train images: it fails before training
    assert list(unwritable.iterdir()) == []


@pytest.mark.cats
def test_training_on_the_real_cats_takes_less_than_2_gb(image: str, cats_zip: Path, tmp_path: Path) -> None:
    artifacts = volume(tmp_path / "artifacts")
    job = [*HARDENED, *mounts(artifacts, cats_zip.parent), image, "train", "--max-epochs", "1"]
    with run_container(*job) as container:
        assert docker("wait", container, seconds=900).stdout == "0\n", docker("logs", container).stderr
        assert docker("inspect", "--format", "{{.State.OOMKilled}}", container).stdout == "false\n"
    assert read_manifest(artifacts)["data"]["pictures"] == 15747  # type: ignore[index]


def test_the_image_with_the_cpu_build_of_pytorch_is_small_and_without_cuda(image: str) -> None:
    index = re.search(r"^ARG TORCH_INDEX=(\S+)", (ROOT / "Dockerfile").read_text(), re.M)
    assert index
    try:
        urllib.request.urlopen(f"{index[1]}/torch/", timeout=5).close()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(
            f"PyTorch's CPU index is unreachable, so the image has the build with CUDA ({type(error).__name__})"
        )
    found = docker(
        "run", "--rm", "--entrypoint", "find", image, "/opt/catae", "-name", "*cuda*.so*", "-o", "-name", "nvidia"
    )
    assert found.stdout == ""
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout) < 1.2e9


def test_the_image_has_no_build_tools_or_caches_and_all_bytecode(image: str) -> None:
    script = """
        command -v cc gcc g++ make
        ls -d /root/.cache /opt/catae/bin/pip /opt/catae/lib/python3.11/site-packages/pip /build /var/lib/apt/lists/*
        cd /opt/catae/lib/python3.11/site-packages
        for file in $(find catae flows -name '*.py') prefect/*.py torch/*.py; do
            stem=$(basename $file .py)
            test -e $(dirname $file)/__pycache__/$stem.cpython-311.pyc || echo $file
        done
        find / -xdev -newermt 2000-01-01 -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null
    """
    found = docker("run", "--rm", "--read-only", "--entrypoint", "sh", image, "-c", script)
    assert found.stdout == "", found.stdout


def test_the_image_runs_as_a_user_under_tini_with_labels_and_no_health_check(image: str) -> None:
    (details,) = json.loads(docker("image", "inspect", image).stdout)
    config = details["Config"]
    assert config["User"] == "catae"
    assert config["Entrypoint"][0] == "tini"
    assert config["Cmd"] == ["train"]
    assert config["Healthcheck"]["Test"] == ["NONE"]
    assert config["Labels"]["org.opencontainers.image.title"] == "catae"
    ended = docker("run", "--rm", "--entrypoint", "sh", image, "-c", "id -u; touch $HOME/file && echo writable")
    assert ended.stdout == "1000\nwritable\n"


@pytest.fixture(scope="module")
def rebuilt(image: str) -> Iterator[str]:
    """Build the image again up to catae's layer, without the cache for that layer; return its tag."""
    uncached, dockerfile = f"RUN : {time.time_ns()}\n", (ROOT / "Dockerfile").read_text()
    last = "COPY --from=application /out /\n"
    dockerfile = dockerfile[: dockerfile.rindex(last)] + last  # leave out the smoke test, which takes longer
    for step in ("COPY pyproject.toml", "COPY --from=application"):
        dockerfile = dockerfile.replace(step, uncached + step)
    yield build("catae:rebuilt", dockerfile)
    docker("image", "rm", "catae:rebuilt")


def test_two_builds_have_an_identical_layer_of_catae(image: str, rebuilt: str) -> None:
    def layers(tag: str) -> list[str]:
        found: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", tag).stdout)
        return found

    created = docker("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", rebuilt).stdout.splitlines()[0]
    assert "COPY /out / " in created
    assert not created.startswith("0B")
    assert layers(rebuilt)[-1] in layers(image)
