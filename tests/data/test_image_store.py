from pathlib import Path

import numpy as np
import pytest

from catae.data import ingest
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.system import files


@pytest.fixture
def image_set(tmp_path: Path) -> ImageStore:
    return ingest.read("drawn:9", tmp_path, 16)[0]


def test_take_copies_images_in_any_order(image_set: ImageStore) -> None:
    everything = image_set.take(range(9))
    assert everything.shape == (9, 16, 16, 3)
    assert everything.tobytes() == (image_set.path / "pixels.u8").read_bytes()
    taken = image_set.take([7, 0, 7])
    assert np.array_equal(taken, everything[[7, 0, 7]])
    taken[:] = 0
    assert np.array_equal(image_set.take([7])[0], everything[7])


def test_reading_a_large_set_keeps_memory_small(tmp_path: Path) -> None:
    count = 40_000  # 490 MB
    (tmp_path / "names.jsonl").write_text("".join(f'"{number}"\n' for number in range(count)))
    with (tmp_path / "pixels.u8").open("wb") as pixels:
        pixels.truncate(count * 64 * 64 * 3)
    (tmp_path / "digests.u8").write_bytes(bytes(32 * count))
    files.write_json(tmp_path / "index.json", {"size": 64, "count": count, "digest": ""})
    images = ImageStore(tmp_path)
    order = np.random.default_rng(0).permutation(count)
    before, highest = resident_memory(), 0
    for start in range(0, count, 64):
        images.take(order[start : start + 64])
        highest = max(highest, resident_memory())
    assert highest - before < 32 * 2**20


def resident_memory() -> int:
    """Return this process's resident memory in bytes, including mapped files."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_every_image_has_a_name_digest_and_key(image_set: ImageStore) -> None:
    assert image_set.names[0] == "drawn/000001.png"
    assert len(image_set.names) == len(image_set.digests) == len(image_set.keys) == len(image_set) == 9
    assert image_set.keys == image_set.digests  # no duplicates


def test_duplicates_share_the_lowest_digest_as_key(image_set: ImageStore) -> None:
    groups = np.arange(9)
    groups[[3, 8]] = 3
    groups[7] = 1
    groups.tofile(image_set.path / "groups.i64")
    keys = ImageStore(image_set.path).keys
    assert keys[3] == keys[8] == min(image_set.digests[3], image_set.digests[8])
    assert keys[1] == keys[7]
    assert len(set(keys)) == 7


def test_incomplete_set_is_an_error(image_set: ImageStore, tmp_path: Path) -> None:
    with (image_set.path / "pixels.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"pixels\.u8 has 100 bytes instead of 6,912"):
        ImageStore(image_set.path)
    with pytest.raises(UserError, match=r"cannot read .*index\.json"):
        ImageStore(tmp_path / "nowhere")


def test_truncation_after_opening_is_an_error(image_set: ImageStore) -> None:
    image_set.take([0])
    with (image_set.path / "pixels.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"pixels\.u8 was truncated"):
        image_set.take([8])
