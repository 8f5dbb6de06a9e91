from pathlib import Path

import pytest

from catae import files
from catae.errors import UserError


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": "ä"})

    def fail_half_way() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half of")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert files.read_json(path) == {"a": "ä"}
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('{"a":')
    with pytest.raises(UserError, match=r"torn\.json is not a whole JSON file"):
        files.read_json(tmp_path / "torn.json")
    with pytest.raises(UserError, match=r"gone\.json can't be read: No such file"):
        files.read_json(tmp_path / "gone.json")
