"""The life of a run: created, resumed, locked, ended, killed."""

import contextlib
import subprocess
import sys
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from catae import settings
from catae.errors import UserError
from catae.pipeline import lifecycle
from catae.run import Run, find_trained_run
from catae.settings import Settings
from catae.system import files, text


def test_a_new_run_records_its_settings_and_latest_points_at_it(small: Settings) -> None:
    first = lifecycle.create_run(small, settings.origins({"seed": 0}))
    second = lifecycle.create_run(small, settings.origins({"seed": 0}))
    assert first.path != second.path
    assert (small.output_dir / "latest").resolve() == second.path.resolve()
    assert not (small.output_dir / "latest").readlink().is_absolute()  # the volume may be mounted elsewhere
    assert second.read()["state"] == "running"
    recorded = files.read_json(second.settings)
    assert recorded["seed"] == {"value": 0, "from": "given"}
    assert recorded["latent_dim"] == {"value": 16, "from": "default"}
    assert list(recorded) == list(Settings.model_fields)


def go(base: Settings, error: BaseException | None = None, **changes: object) -> Run:
    """Return a run that ended with `error`, or finished."""
    resolved = base.model_copy(update=changes)
    opened = []
    with contextlib.suppress(UserError, KeyboardInterrupt), lifecycle.open_run(resolved, settings.origins()) as new:
        opened.append(new)
        if error:
            raise error
    return opened[0]


@pytest.mark.parametrize(
    ("error", "state", "recorded"),
    [
        (None, "finished", None),
        (UserError("no cats"), "failed", "UserError: no cats"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_the_end_of_a_run_is_recorded(
    small: Settings, error: BaseException | None, state: str, recorded: str | None
) -> None:
    ended = go(small, error)
    manifest = ended.read()
    assert (manifest["state"], manifest["error"]) == (state, recorded)
    assert ended.state() == state
    assert manifest["seconds"] >= 0
    assert manifest["machine"]["packages"]["torch"]


def test_an_interrupted_run_is_resumed_and_a_finished_one_is_not(small: Settings) -> None:
    first = go(small, KeyboardInterrupt())
    again = go(small, UserError("disk full"))
    third = go(small)
    fourth = go(small)
    assert first.path == again.path == third.path != fourth.path
    assert (third.read()["attempts"], fourth.read()["attempts"]) == (3, 1)
    assert third.read()["started"] == first.read()["started"]


def test_other_hyperparameters_or_resume_never_start_a_new_run(small: Settings) -> None:
    first = go(small, KeyboardInterrupt())
    assert go(small, KeyboardInterrupt(), samples=3).path == first.path
    other = go(small, KeyboardInterrupt(), latent_dim=7)
    assert other.path != first.path
    assert go(small, KeyboardInterrupt(), latent_dim=7, resume="never").path not in (first.path, other.path)


def test_a_named_run_is_resumed_unless_settings_changed(small: Settings) -> None:
    first = go(small, KeyboardInterrupt())
    go(small, KeyboardInterrupt(), seed=3)
    assert go(small, KeyboardInterrupt(), resume=first.id).path == first.path
    changed = small.model_copy(update={"seed": 5, "width": 2, "resume": first.id})
    message = rf"cannot resume run {first.id}: .*\(width was 8, is 2, seed was 0, is 5\); .* --resume never"
    with pytest.raises(UserError, match=message), lifecycle.open_run(changed, settings.origins()):
        pass


def test_a_run_has_one_writer_and_a_killed_process_leaves_no_lock(small: Settings) -> None:
    code = (
        "import sys, time; from pathlib import Path; from catae import settings; from catae.pipeline import lifecycle\n"
        "resolved = settings.Settings(output_dir=Path(sys.argv[1]), **eval(sys.argv[2]))\n"
        "with lifecycle.open_run(resolved, settings.origins()) as new: print(new.path, flush=True); time.sleep(60)"
    )
    values = small.model_dump(exclude={"output_dir"})
    command = [sys.executable, "-c", code, str(small.output_dir), repr(values)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        busy = Run(Path(process.stdout.readline().strip()))
        assert busy.state() == "running"
        assert go(small).path != busy.path  # it is busy, so a new run is created
        named = small.model_copy(update={"resume": busy.id})
        with (
            pytest.raises(UserError, match="another process is writing to"),
            lifecycle.open_run(named, settings.origins()),
        ):
            pass
        process.kill()
    assert busy.read()["state"] == "running"
    assert busy.state() == "killed"
    with pytest.raises(UserError, match=f"run {busy.id} is killed and has no model yet"):
        find_trained_run(busy.id, small.output_dir)
    assert busy.read()["process"]["pid"] == process.pid
    assert go(small).path == busy.path


def test_a_killed_run_is_recorded_as_killed_and_cleaned_up(small: Settings) -> None:
    dead = go(small, KeyboardInterrupt())
    dead.record(state="running", process={"pid": 1, "host": "elsewhere", "boot": "another"})
    (dead.path / ".writing-1-curves.png").write_text("half")
    (small.output_dir / "runs/20200101-000000").mkdir()  # killed before it wrote anything
    other = go(small, seed=9)
    assert other.path != dead.path
    assert dead.read()["state"] == "killed"
    assert {path.name for path in (small.output_dir / "runs").iterdir()} == {dead.id, other.id}
    assert {path.name for path in dead.path.iterdir()} == {"run.json", "settings.json"}


def test_a_damaged_run_folder_does_not_stop_others(small: Settings, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b"", b"[]", b'{"state": 3}', b"\xff", b"[" * 100_000):
        damaged = go(small, KeyboardInterrupt())
        damaged.manifest.write_bytes(content)
    for content in (b"", b"[]", b'{"seed": 3}', b'{"seed": {"value": {}}}'):
        damaged = go(small, KeyboardInterrupt(), resume="never")
        damaged.settings.write_bytes(content)
    assert go(small).read()["state"] == "finished"
    assert "is not the manifest of a run" in caplog.text
    assert "does not hold the settings of a run" in caplog.text
    with pytest.raises(UserError, match=r"settings\.json does not hold the settings"):
        go_named(small, damaged.id)


def go_named(base: Settings, name: str) -> None:
    resolved = base.model_copy(update={"resume": name})
    with lifecycle.open_run(resolved, settings.origins()):
        pass


def test_an_interrupted_run_is_resumed_after_the_clock_was_set_back(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    go(small, KeyboardInterrupt(), seed=4)
    monkeypatch.setattr(files, "datetime", Yesterday)
    monkeypatch.setattr(text, "datetime", Yesterday)
    first = go(small, KeyboardInterrupt())
    again = go(small)
    assert again.path == first.path
    assert (small.output_dir / "latest").resolve() == first.path.resolve()
    assert again.read()["seconds"] >= 0


def test_an_output_folder_that_cannot_be_written_is_reported(small: Settings, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*a-file: Not a directory; choose another --output-dir"):
        lifecycle.create_run(small.model_copy(update={"output_dir": tmp_path / "a-file"}), settings.origins())
