"""The command line, as a user types it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jobs
import numpy as np
import pytest
from PIL import Image, ImageSequence

from catae import run, settings
from catae.__main__ import main
from catae.run import Run
from catae.settings import Settings
from catae.system import files

RUN = [name for group in settings.RUN for name in group.model_fields]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with a trained run."""
    resolved = Settings(
        source="drawn:60", image_size=32, latent_dim=8, width=4, max_epochs=1, output_dir=tmp_path_factory.mktemp("a")
    )
    jobs.train(resolved)
    return resolved.output_dir


@pytest.fixture(autouse=True)
def _output_dir(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(artifacts))


def test_generate_is_deterministic(artifacts: Path) -> None:
    for out, arguments in {
        "1.png": ["--seed", "3"], "2.png": ["--seed", "3", "--prior", "randn"], "3.png": ["--seed", "4"],
        "4.png": ["--seed", "3", "--prior", "gaussian"], "5.png": ["--seed", "3", "--count", "4"],
    }.items():  # fmt: skip
        assert main(["generate", "--run", "latest", "--count", "9", *arguments, "--out", out]) == 0
    made = [Path(f"{number}.png").read_bytes() for number in range(1, 6)]
    assert made[0] == made[1]
    assert len(set(made)) == 4


def test_interpolate_takes_names_of_test_images_and_paths(artifacts: Path) -> None:
    test = files.read_json(run.find_run("latest", artifacts).split)["test"]
    Image.fromarray(np.full((50, 70, 3), 99, np.uint8)).save("tom.jpg")
    assert main(["interpolate", test[0], "tom.jpg", "--steps", "5", "--out", "path.gif"]) == 0
    assert main(["interpolate", test[0], test[1], "--steps", "5", "--out", "path.png"]) == 0
    with Image.open("path.gif") as image:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 2 * 1000 + 6 * 400
    assert Path("path.png").stat().st_size > 1000


def test_reconstruct_draws_images_above_their_reconstructions(artifacts: Path) -> None:
    Image.fromarray(np.full((50, 70, 3), 99, np.uint8)).save("tom.jpg")
    test = files.read_json(run.find_run("latest", artifacts).split)["test"]
    assert main(["reconstruct", "tom.jpg", test[0], "--out", "reconstructed.png"]) == 0
    with Image.open("reconstructed.png") as image:
        assert image.height > 128


def test_inspect_reports_as_text_json_and_html(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cats").mkdir()
    for name, colour in (("a", "black"), ("c", "white")):
        Image.new("RGB", (20, 20), colour).save(f"cats/{name}.png")
    Path("cats/b.jpg").write_text("no picture")
    assert main(["inspect", "cats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rejects"][0]["name"] == "b.jpg"
    assert main(["inspect", "cats"]) == 0
    assert "not an image in a known format" in capsys.readouterr().out
    assert main(["inspect", "cats", "--html", "cats.html"]) == 0
    assert "b.jpg" in Path("cats.html").read_text()


@pytest.mark.parametrize(
    ("pictures", "others", "message"),
    [
        (1, {"b.jpg": "broken", "c.svg": "<svg/>"}, "2 of 3 images cannot be decoded"),
        (0, {"c.svg": "<svg/>"}, "none of its 1 image can be decoded"),
        (0, {"c.txt": "words"}, "it has 1 file, such as c.txt, but no images"),
        (1, {}, "cannot split 1 images"),
    ],
)
def test_inspect_reports_and_fails_if_train_would_refuse_the_source(
    pictures: int, others: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cats").mkdir()
    for number in range(pictures):
        Image.new("RGB", (20, 20)).save(f"cats/{number}.png")
    for name, text in others.items():
        Path("cats", name).write_text(text)
    assert main(["inspect", "cats", "--json"]) == 2
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["pictures"], report["files"]) == (pictures, pictures + len(others))
    assert [file["name"] for file in report["unsupported"]] == [name for name in others if name == "c.svg"]
    assert message in printed.err.splitlines()[-1]
    assert main(["inspect", "cats"]) == 2
    assert capsys.readouterr().out.startswith("cats: ")
    assert main(["inspect", "cats", "--html", "cats.html"]) == 2
    assert all(name in Path("cats.html").read_text() for name in others)


def test_inspect_exits_with_2_if_rejects_fail(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cats").mkdir()
    for name, colour in (("a", "black"), ("c", "white")):
        Image.new("RGB", (20, 20), colour).save(f"cats/{name}.png")
    Path("cats/d.svg").write_text("<svg/>")
    assert main(["inspect", "cats"]) == 0
    os.environ["CATAE_ON_REJECT"] = "fail"  # the fixture puts it back
    assert main(["inspect", "cats"]) == 2
    printed = capsys.readouterr()
    assert "d.svg" in printed.out
    assert "1 of 3 images cannot be decoded" in printed.err


def test_cache_lists_and_clears_image_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["CATAE_OUTPUT_DIR"] = str(tmp_path)  # the fixture puts it back
    assert main(["inspect", "drawn:7", "--json"]) == 0
    assert main(["cache"]) == 0
    assert "drawn:7\n1 set, " in capsys.readouterr().out
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["pictures"] == 7
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == "removed 1 of 1 set\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--run", "nope"], "--run is 'nope': no such run in"),
        (["generate", "--count", "none"], "--count is 'none': it must be a valid integer"),
        (["generate", "--count", "0"], "--count is '0': it must be greater than or equal to 1"),
        (
            ["generate", "--prior", "uniform"],
            "--prior is 'uniform': it must be 'randn', 'gaussian', 'mixture' or 'neighbours'",
        ),
        (["interpolate", "a", "b", "--steps", "1"], "--steps is '1': it must be greater than or equal to 2"),
        (["interpolate", "nope.png", "nope.png"], "'nope.png' is not an image of this run"),
        (["reconstruct", "nope.png"], "'nope.png' is not an image of this run"),
        (["inspect", "nowhere"], "cannot read nowhere: No such file or directory"),
        (["train", "--seed", "x"], "--seed is 'x': it must be a valid integer"),
    ],
)
def test_an_error_of_the_user_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("catae: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [["generate", "--out", "x.bmp"], ["nonsense"], [], ["inspect"]])
def test_invalid_commands_print_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: catae" in capsys.readouterr().err


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "train", "sweep", "fit", "runs", "generate", "fid", "interpolate", "reconstruct", "attribute", "latents",
        "compare", "export", "play", "inspect", "cache",
    ):  # fmt: skip
        with pytest.raises(SystemExit) as error:
            main([command, "--help"])
        assert error.value.code == 0
        assert re.search(rf"example: .*catae {command}", " ".join(capsys.readouterr().out.split()))


@pytest.mark.parametrize(("command", "names"), [("train", RUN), ("sweep", Settings.model_fields)])
def test_settings_are_flags_of_sweep_and_of_train(
    command: str, names: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert {name for name in Settings.model_fields if f"--{name.replace('_', '-')} " in shown} == set(names)


def test_an_interrupt_exits_with_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> Run:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "find_run", interrupted)
    assert main(["generate"]) == 130
    assert capsys.readouterr().err == "catae: interrupted\n"


def test_help_does_not_import_pytorch() -> None:
    code = (
        "import sys; from catae.__main__ import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: print([name for name in ('torch', 'numpy', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]"


def test_commands_other_than_train_need_no_prefect() -> None:
    code = (
        "import sys; sys.modules['prefect'] = None\n"
        "from catae.__main__ import main; sys.exit(main(['generate', '--out', 'x.png']))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (made.returncode, made.stdout) == (0, "x.png\n"), made.stderr


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--version"])
    assert error.value.code == 0
    assert capsys.readouterr().out == f"catae {version('catae')}\n"


def test_help_shows_the_choices_of_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--precision {auto,fp32,bf16}" in capsys.readouterr().out


def test_a_renamed_flag_is_named_by_its_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    for old, new in (("--mirror=0", "--hflip"), ("--averaging", "--ema-decay")):
        with pytest.raises(SystemExit) as error:
            main(["train", old])
        assert error.value.code == 2
        assert f"{old.removesuffix('=0')} is now {new}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--weight-decay=0"])
    assert "--weight-decay was removed: training uses torch.optim.Adam" in capsys.readouterr().err


def test_runs_lists_runs_with_changed_settings_and_scores(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run.find_run("latest", artifacts)
    scores = {"l1": 0.125, "psnr": 20.0, "ssim": 0.5}
    found.record(scores={"model": scores, "pca": scores, "pictures": 6})
    assert main(["runs", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["id"], listed["state"], listed["source"]) == (found.id, found.state(), "drawn:60")
    assert listed["recipe"] == "spec"
    assert listed["settings"] == {"image_size": 32, "latent_dim": 8, "width": 4, "max_epochs": 1}
    assert (listed["epochs"], listed["l1"], listed["pca_l1"], listed["images"]) == (1, 0.125, 0.125, 6)
    assert main(["runs"]) == 0
    printed = capsys.readouterr().out
    assert found.id in printed
    assert listed["state"] in printed  # not folded at 80 columns
    assert max(map(len, printed.splitlines())) <= 80
    assert "0.1250" in printed
    assert main(["runs", "--output-dir", "nowhere"]) == 0
    assert capsys.readouterr().out == "no runs in nowhere (CATAE_OUTPUT_DIR)\n"


def test_a_dry_run_previews_the_run_and_writes_nothing(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(artifacts.rglob("*"))
    same = ["--image-size", "32", "--latent-dim", "8", "--width", "4", "--max-epochs", "1"]
    interrupted = run.find_run("latest", artifacts)
    interrupted.record(state="interrupted")
    assert main(["train", "--dry-run", "--json", "--source", "drawn:60", *same]) == 0
    preview = json.loads(capsys.readouterr().out)
    assert preview["settings"]["width"] == {"value": 4, "from": "given"}
    assert preview["settings"]["output_dir"]["from"] == "environment"
    assert preview["settings"]["seed"]["from"] == "default"
    assert (preview["files"], preview["images"], preview["resumes"]) == (60, 60, interrupted.id)
    assert min(preview["disk_bytes"], preview["memory_bytes"]) > 0
    assert main(["train", "--dry-run", "--source", "drawn:70"]) == 0
    printed = capsys.readouterr().out
    assert "source: 70 files, not decoded yet" in printed
    assert "resumes: none; a new run starts" in printed
    assert sorted(artifacts.rglob("*")) == before
    assert main(["train", "--dry-run", "--source", "drawn:60", "--resume", interrupted.id]) == 2
    assert "cannot resume" in capsys.readouterr().err
