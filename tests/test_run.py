from pathlib import Path

import pytest

from catae import files, run, settings
from catae.errors import UserError
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
    new = run.create(small, settings.origins())

    def end() -> None:
        with run.recorded(new):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            end()
    else:
        end()
    manifest = new.read()
    assert (manifest["state"], manifest["error"]) == (state, said)
    assert manifest["seconds"] >= 0
    assert manifest["machine"]["packages"]["torch"]


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
    with pytest.raises(UserError, match=r"a-file can't be written to: Not a directory; give another --output-dir"):
        run.create(small.model_copy(update={"output_dir": tmp_path / "a-file"}), settings.origins())
