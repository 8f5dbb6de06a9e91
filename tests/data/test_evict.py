import subprocess
import sys
from pathlib import Path

import pytest

from catae.data import image_store, ingest


def test_sets_are_listed_by_last_use(tmp_path: Path) -> None:
    ingest.read("drawn:5", tmp_path, 16)
    ingest.read("drawn:6", tmp_path, 16)
    ingest.read("drawn:5", tmp_path, 16)  # used again
    cached_sets = image_store.cached_sets(tmp_path)
    assert [(cached.source, cached.pictures) for cached in cached_sets] == [("drawn:6", 6), ("drawn:5", 5)]
    assert cached_sets[1].size_bytes > 5 * 16 * 16 * 3
    assert image_store.cached_sets(tmp_path / "nowhere") == []


def test_least_recently_used_sets_are_evicted_first(tmp_path: Path) -> None:
    for count in (5, 6, 7):
        ingest.read(f"drawn:{count}", tmp_path, 16)
    cached_sets = image_store.cached_sets(tmp_path)
    assert image_store.evict(tmp_path, sum(cached.size_bytes for cached in cached_sets)) == []
    evicted = image_store.evict(tmp_path, cached_sets[1].size_bytes + cached_sets[2].size_bytes)
    assert [cached.source for cached in evicted] == ["drawn:5"]
    assert [cached.source for cached in image_store.evict(tmp_path, 0)] == ["drawn:6"]
    assert len(list(tmp_path.iterdir())) == 1


def test_set_in_use_is_kept_until_its_process_ends(tmp_path: Path) -> None:
    path = ingest.read("drawn:5", tmp_path, 16)[0].path
    (cached,) = image_store.cached_sets(tmp_path)
    with image_store.in_use(path), image_store.in_use(path):
        assert not image_store.remove(cached)
    code = (
        "import sys, time; from pathlib import Path; from catae.data import image_store\n"
        f"with image_store.in_use(Path({str(path)!r})):\n    print('in use', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in use\n"
        assert not image_store.remove(cached)
        process.kill()
    assert image_store.remove(cached)
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_kept(tmp_path: Path) -> None:
    ingest.read("drawn:5", tmp_path, 16)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for cached in image_store.cached_sets(tmp_path):
        image_store.remove(cached)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture(autouse=True)
def _distinct_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every set its own time: reads within one tick of the file system's clock share a time."""
    import os
    import time

    clock = iter(range(1_000_000))
    utime = os.utime
    base = time.time()
    monkeypatch.setattr(ingest.os, "utime", lambda path: utime(path, (base, base + next(clock))))
