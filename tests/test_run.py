from pathlib import Path

import pytest

from catae import settings
from catae.errors import UserError
from catae.pipeline import lifecycle
from catae.run import find_run
from catae.settings import Settings


def test_a_run_is_found_by_latest_by_id_and_by_folder(small: Settings, tmp_path: Path) -> None:
    new = lifecycle.create_run(small, settings.origins())
    (tmp_path / "moved").symlink_to(new.path)
    for name in ("latest", new.id, str(new.path), str(tmp_path / "moved")):
        assert find_run(name, small.output_dir).path == new.path.resolve()
    with pytest.raises(UserError, match=f"--run is 'nope': no such run in .*; the newest are {new.id}"):
        find_run("nope", small.output_dir)
    with pytest.raises(UserError, match="there are none yet"):
        find_run("latest", tmp_path / "elsewhere")
