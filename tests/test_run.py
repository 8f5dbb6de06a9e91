import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from catae import files, run, settings
from catae.errors import UserError
from catae.run import Run
from catae.settings import Settings


def test_a_new_run_says_what_was_asked_for_and_latest_points_at_it(small: Settings) -> None:
    first = run.create(small, settings.origins({"seed": 0}))
    second = run.create(small, settings.origins({"seed": 0}))
    assert first.path != second.path
    assert (small.output_dir / "latest").resolve() == second.path.resolve()
    assert not (small.output_dir / "latest").readlink().is_absolute()  # the volume may be mounted elsewhere
    assert second.read()["state"] == "running"
    said = files.read_json(second.settings)
    assert said["seed"] == {"value": 0, "from": "given"}
    assert said["latent_dim"] == {"value": 16, "from": "default"}
    assert list(said) == list(Settings.model_fields)


def go(settings_: Settings, error: BaseException | None = None, **changes: object) -> Run:
    """A run that ends with `error`, or well."""
    resolved = settings_.model_copy(update=changes)
    kept = []
    with contextlib.suppress(UserError, KeyboardInterrupt), run.recorded(resolved, settings.origins()) as new:
        kept.append(new)
        if error:
            raise error
    return kept[0]


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (None, "finished", None),
        (UserError("no cats"), "failed", "UserError: no cats"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_how_a_run_ended_is_recorded(
    small: Settings, error: BaseException | None, state: str, said: str | None
) -> None:
    ended = go(small, error)
    manifest = ended.read()
    assert (manifest["state"], manifest["error"]) == (state, said)
    assert run.state(ended) == state
    assert manifest["seconds"] >= 0
    assert manifest["machine"]["packages"]["torch"]


def test_the_same_command_goes_on_with_an_interrupted_run_and_starts_afresh_after_a_finished_one(
    small: Settings,
) -> None:
    first = go(small, KeyboardInterrupt())
    again = go(small, UserError("disk full"))
    third = go(small)
    fourth = go(small)
    assert first.path == again.path == third.path != fourth.path
    assert (third.read()["attempts"], fourth.read()["attempts"]) == (3, 1)
    assert third.read()["started"] == first.read()["started"]


def test_other_settings_or_never_start_a_new_run_and_harmless_ones_go_on(small: Settings) -> None:
    first = go(small, KeyboardInterrupt())
    assert go(small, KeyboardInterrupt(), samples=3).path == first.path
    other = go(small, KeyboardInterrupt(), latent_dim=7)
    assert other.path != first.path
    assert go(small, KeyboardInterrupt(), latent_dim=7, resume="never").path not in (first.path, other.path)


def test_a_run_that_is_named_is_gone_on_with_or_refused_with_what_has_changed(small: Settings) -> None:
    first = go(small, KeyboardInterrupt())
    go(small, KeyboardInterrupt(), seed=3)
    assert go(small, KeyboardInterrupt(), resume=first.id).path == first.path
    changed = small.model_copy(update={"seed": 5, "width": 2, "resume": first.id})
    said = f"run {first.id} can't be gone on with, .*: width was 8 and is 2; seed was 0 and is 5; .* --resume never"
    with pytest.raises(UserError, match=said), run.recorded(changed, settings.origins()):
        pass


def test_two_processes_dont_write_to_one_run_and_a_killed_one_leaves_no_lock(small: Settings) -> None:
    code = (
        "import sys, time; from pathlib import Path; from catae import run, settings\n"
        "resolved = settings.Settings(output_dir=Path(sys.argv[1]), **eval(sys.argv[2]))\n"
        "with run.recorded(resolved, settings.origins()) as new: print(new.path, flush=True); time.sleep(60)"
    )
    values = small.model_dump(exclude={"output_dir"})
    command = [sys.executable, "-c", code, str(small.output_dir), repr(values)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        busy = Run(Path(process.stdout.readline().strip()))
        assert run.state(busy) == "running"
        assert go(small).path != busy.path  # it is at work: another run is begun beside it
        named = small.model_copy(update={"resume": busy.id})
        with (
            pytest.raises(UserError, match="is being written to by"),
            run.recorded(named, settings.origins()),
        ):
            pass
        process.kill()
    assert busy.read()["state"] == "running"
    assert run.state(busy) == "killed"
    assert go(small).path == busy.path


def test_a_run_is_found_by_latest_by_its_id_and_by_its_folder(small: Settings, tmp_path: Path) -> None:
    new = run.create(small, settings.origins())
    (tmp_path / "moved").symlink_to(new.path)
    for name in ("latest", new.id, str(new.path), str(tmp_path / "moved")):
        assert run.find(name, small.output_dir).path == new.path.resolve()
    with pytest.raises(UserError, match=f"--run is 'nope': no such run in .*; there are {new.id}"):
        run.find("nope", small.output_dir)
    with pytest.raises(UserError, match="there is none yet"):
        run.find("latest", tmp_path / "elsewhere")


def test_an_output_folder_that_cant_be_written_is_told(small: Settings, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(UserError, match=r"a-file can't be written: Not a directory; give another --output-dir"):
        run.create(small.model_copy(update={"output_dir": tmp_path / "a-file"}), settings.origins())
