import contextlib
import subprocess
import sys
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from catae import run, settings
from catae.errors import UserError
from catae.run import Run
from catae.settings import Settings
from catae.system import files


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
    with pytest.raises(UserError, match=f"run {busy.id} is killed, and has no model yet"):
        run.trained(busy.id, small.output_dir)
    assert busy.read()["process"]["pid"] == process.pid
    assert go(small).path == busy.path


def test_a_killed_run_doesnt_call_itself_running_for_ever(small: Settings) -> None:
    dead = go(small, KeyboardInterrupt())
    dead.record(state="running", process={"pid": 1, "host": "elsewhere", "boot": "another"})
    (dead.path / ".writing-1-curves.png").write_text("half")
    (small.output_dir / "runs/20200101-000000").mkdir()  # as far as it had come when it was killed
    other = go(small, seed=9)
    assert other.path != dead.path
    assert dead.read()["state"] == "killed"
    assert {path.name for path in (small.output_dir / "runs").iterdir()} == {dead.id, other.id}
    assert {path.name for path in dead.path.iterdir()} == {"run.json", "settings.json"}


def test_a_damaged_or_hostile_run_folder_doesnt_stop_others(small: Settings, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b"", b"[]", b'{"state": 3}', b"\xff", b"[" * 100_000):
        hurt = go(small, KeyboardInterrupt())
        hurt.manifest.write_bytes(content)
    for content in (b"", b"[]", b'{"seed": 3}', b'{"seed": {"value": {}}}'):
        hurt = go(small, KeyboardInterrupt(), resume="never")
        hurt.settings.write_bytes(content)
    assert go(small).read()["state"] == "finished"
    assert "is no run's manifest" in caplog.text
    assert "doesn't hold the settings of a run" in caplog.text
    with pytest.raises(UserError, match=r"settings\.json doesn't hold the settings"):
        go_named(small, hurt.id)


def go_named(settings_: Settings, name: str) -> None:
    resolved = settings_.model_copy(update={"resume": name})
    with run.recorded(resolved, settings.origins()):
        pass


def test_with_a_clock_that_was_put_back_the_interrupted_run_is_still_found(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    go(small, KeyboardInterrupt(), seed=4)
    monkeypatch.setattr(run, "datetime", Yesterday)
    first = go(small, KeyboardInterrupt())
    again = go(small)
    assert again.path == first.path
    assert (small.output_dir / "latest").resolve() == first.path.resolve()
    assert again.read()["seconds"] >= 0


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
