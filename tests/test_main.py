"""The command line, as a user types it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
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
    """An output folder with a trained run."""
    resolved = Settings(
        source="drawn:60", image_size=32, latent_dim=8, width=4, max_epochs=1, output_dir=tmp_path_factory.mktemp("a")
    )
    jobs.train(resolved)
    return resolved.output_dir


@pytest.fixture(autouse=True)
def _output_dir(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(artifacts))


def test_generate_gives_the_same_bytes_for_the_same_seed(artifacts: Path) -> None:
    for out, arguments in {
        "1.png": ["--seed", "3"], "2.png": ["--seed", "3", "--prior", "randn"], "3.png": ["--seed", "4"],
        "4.png": ["--seed", "3", "--prior", "gaussian"], "5.png": ["--seed", "3", "--count", "4"],
    }.items():  # fmt: skip
        assert main(["generate", "--run", "latest", "--count", "9", *arguments, "--out", out]) == 0
    made = [Path(f"{number}.png").read_bytes() for number in range(1, 6)]
    assert made[0] == made[1]
    assert len(set(made)) == 4


def test_interpolate_walks_between_test_pictures_by_name_and_pictures_by_path(artifacts: Path) -> None:
    test = files.read_json(run.find_run("latest", artifacts).split)["test"]
    Image.fromarray(np.full((50, 70, 3), 99, np.uint8)).save("tom.jpg")
    assert main(["interpolate", test[0], "tom.jpg", "--steps", "5", "--out", "walk.gif"]) == 0
    assert main(["interpolate", test[0], test[1], "--steps", "5", "--out", "walk.png"]) == 0
    with Image.open("walk.gif") as walk:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(walk)) == 2 * 1000 + 6 * 400
    assert Path("walk.png").stat().st_size > 1000


def test_reconstruct_draws_pictures_over_their_restorations(artifacts: Path) -> None:
    Image.fromarray(np.full((50, 70, 3), 99, np.uint8)).save("tom.jpg")
    test = files.read_json(run.find_run("latest", artifacts).split)["test"]
    assert main(["reconstruct", "tom.jpg", test[0], "--out", "restored.png"]) == 0
    with Image.open("restored.png") as picture:
        assert picture.height > 128


def test_inspect_reports_what_a_folder_holds_for_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cats").mkdir()
    Image.new("RGB", (20, 20)).save("cats/a.png")
    Path("cats/b.jpg").write_text("no picture")
    assert main(["inspect", "cats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rejects"][0]["name"] == "b.jpg"
    assert main(["inspect", "cats"]) == 0
    assert "it is no picture of a known format" in capsys.readouterr().out
    assert main(["inspect", "cats", "--html", "cats.html"]) == 0
    assert "b.jpg" in Path("cats.html").read_text()


def test_cache_lists_and_clears_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["CATAE_OUTPUT_DIR"] = str(tmp_path)  # the fixture puts it back
    assert main(["inspect", "drawn:7", "--json"]) == 0
    assert main(["cache"]) == 0
    assert "drawn:7\n1 set, " in capsys.readouterr().out
    assert main(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["pictures"] == 7
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == "removed 1 of 1 set\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--run", "nope"], "--run is 'nope': no such run in"),
        (["generate", "--count", "none"], "--count is 'none': it must be a valid integer"),
        (["generate", "--count", "0"], "--count is '0': it must be greater than or equal to 1"),
        (
            ["generate", "--prior", "uniform"],
            "--prior is 'uniform': it must be 'randn', 'gaussian', 'mixture' or 'neighbours'",
        ),
        (["interpolate", "a", "b", "--steps", "1"], "--steps is '1': it must be greater than or equal to 2"),
        (["interpolate", "nope.png", "nope.png"], "'nope.png' is no picture of this run"),
        (["reconstruct", "nope.png"], "'nope.png' is no picture of this run"),
        (["inspect", "nowhere"], "nowhere can't be read: No such file or directory"),
        (["train", "--seed", "x"], "--seed is 'x': it must be a valid integer"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.startswith("catae: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [["generate", "--out", "x.bmp"], ["nonsense"], [], ["inspect"]])
def test_words_that_are_no_command_are_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage: catae" in capsys.readouterr().err


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "train", "sweep", "fit", "generate", "fid", "interpolate", "reconstruct", "attribute", "latents", "compare",
        "export", "play", "inspect", "cache",
    ):  # fmt: skip
        with pytest.raises(SystemExit) as error:
            main([command, "--help"])
        assert error.value.code == 0
        assert re.search(rf"example: .*catae {command}", " ".join(capsys.readouterr().out.split()))


@pytest.mark.parametrize(("command", "names"), [("train", RUN), ("sweep", Settings.model_fields)])
def test_every_setting_is_a_flag_of_sweep_and_those_of_one_run_of_train(
    command: str, names: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert {name for name in Settings.model_fields if f"--{name.replace('_', '-')} " in shown} == set(names)


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> Run:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "find", interrupted)
    assert main(["generate"]) == 130
    assert capsys.readouterr().err == "catae: interrupted\n"


def test_help_is_given_without_loading_pytorch() -> None:
    code = (
        "import sys; from catae.__main__ import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: print([name for name in ('torch', 'numpy', 'prefect') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.splitlines()[-1] == "[]"


def test_commands_other_than_train_need_no_prefect() -> None:
    code = (
        "import sys; sys.modules['prefect'] = None\n"
        "from catae.__main__ import main; sys.exit(main(['generate', '--out', 'x.png']))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (made.returncode, made.stdout) == (0, "x.png\n"), made.stderr
