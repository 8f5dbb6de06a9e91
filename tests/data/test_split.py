import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catae.data import split
from catae.data.image_store import ImageStore
from catae.data.split import Split
from catae.errors import UserError
from catae.settings import Settings
from catae.system import files

DIGESTS = [f"image {number}" for number in range(3000)]


def sides(digests: list[str], **options: object) -> dict[str, set[str]]:
    parts = split.split(digests, **options)  # type: ignore[arg-type]
    return {side: {digests[p] for p in getattr(parts, side)} for side in ("train", "test")}


def test_every_image_is_in_one_part_and_the_fraction_holds_on_average() -> None:
    parts = split.split(DIGESTS, test_fraction=0.1)
    assert 250 < len(parts.test) < 350  # 300 on average, with a standard deviation of 16
    assert sorted(parts.train + parts.test) == list(range(3000))


def test_order_and_added_files_do_not_move_an_image() -> None:
    shuffled = random.Random(0).sample(DIGESTS, len(DIGESTS))
    before, reordered, more = sides(DIGESTS), sides(shuffled), sides([*DIGESTS, *(f"new {n}" for n in range(3000))])
    assert before == reordered
    assert before["test"] <= more["test"]
    assert before["train"] <= more["train"]


def test_another_seed_gives_another_split() -> None:
    first, second = sides(DIGESTS, seed=0)["test"], sides(DIGESTS, seed=1)["test"]
    assert len(first & second) < 60  # 30 by chance


def test_duplicates_share_a_part() -> None:
    twice = DIGESTS + DIGESTS[:2000]
    parts = split.split(twice)
    assert len(parts.train) + len(parts.test) == 5000
    assert split.overlap(parts, twice) == 0


def test_drop_keeps_the_first_duplicate() -> None:
    twice = DIGESTS + DIGESTS[:2000]
    parts = split.split(twice, duplicates="drop")
    assert parts.dropped == tuple(range(3000, 5000))
    assert (parts.train, parts.test) == (split.split(DIGESTS).train, split.split(DIGESTS).test)


def test_overlap_counts_leaks() -> None:
    assert split.overlap(Split(train=(0, 1), test=(2, 3)), ["a", "b", "a", "c"]) == 1


@pytest.mark.parametrize("seed", range(20))
def test_small_sets_have_both_parts(seed: int) -> None:
    for count in (2, 3, 5):
        parts = split.split(DIGESTS[:count], seed)
        assert parts.train
        assert parts.test


def test_too_few_distinct_images_are_an_error() -> None:
    with pytest.raises(UserError, match="cannot split 3 images, 1 of them distinct; at least 2"):
        split.split(["a", "a", "a"])


def test_split_is_saved_and_read_back(tmp_path: Path) -> None:
    parts = split.split(DIGESTS + DIGESTS[:5], duplicates="drop")
    names = [f"{number}.jpg" for number in range(3005)]
    split.save_split(parts, names, tmp_path / "split.json")
    assert split.open_split(tmp_path / "split.json", names) == parts
    with pytest.raises(UserError, match="which is not in the image set"):
        split.open_split(tmp_path / "split.json", names[:100])


@pytest.mark.cats
def test_real_cats_do_not_leak(cats_set: ImageStore) -> None:
    parts = split.split(cats_set.keys)
    assert split.overlap(parts, cats_set.digests) == 0
    assert split.overlap(parts, cats_set.keys) == 0
    # A random split has 72 % of the test cats in train, so the assertions above are not trivial.
    order = random.Random(0).sample(range(len(cats_set)), len(cats_set))
    plain = Split(train=tuple(order[1575:]), test=tuple(order[:1575]))
    assert split.overlap(plain, cats_set.digests) > 1000


def test_validation_does_not_change_test() -> None:
    plain, parts = split.split(DIGESTS), split.split(DIGESTS, validation_fraction=0.2)
    assert parts.test == plain.test
    assert 520 < len(parts.validation) < 680  # 600 on average, with a standard deviation of 22
    assert sorted(parts.train + parts.test + parts.validation) == list(range(3000))
    twice = DIGESTS + DIGESTS[:2000]
    assert split.overlap(split.split(twice, validation_fraction=0.2), twice) == 0


@pytest.mark.parametrize("seed", range(20))
def test_small_sets_have_all_three_parts(seed: int) -> None:
    for count in (3, 4, 6):
        parts = split.split(DIGESTS[:count], seed, 0.1, 0.1)
        assert parts.train
        assert parts.test
        assert parts.validation


def test_fractions_that_leave_no_train_images_are_an_error() -> None:
    with pytest.raises(UserError, match="their sum must be less than 1"):
        split.split(DIGESTS, test_fraction=0.5, validation_fraction=0.5)


def test_random_split_leak_has_a_closed_form() -> None:
    distinct = np.arange(5000)
    assert split.random_split_leak(distinct) == 0
    assert split.random_split_leak(distinct // 2) == pytest.approx(1 - 499 / 4999, rel=1e-12)
    assert split.random_split_leak(np.zeros(1, np.int64)) == 0  # the only image is in test
    assert split.random_split_leak(np.zeros(2, np.int64)) == 1
    assert split.random_split_leak(np.array([7, 7, 7, 3])) == 0.75  # 1 of 4 in test: three have duplicates in train
    assert split.random_split_leak(np.zeros(4, np.int64), 0.75) == 1  # 3 of 4 in test, and the fourth in train


def test_random_split_leak_does_not_depend_on_the_order() -> None:
    groups = np.repeat(np.arange(40), np.arange(40) % 7 + 1)
    expected = split.random_split_leak(groups)
    for seed in range(5):
        assert split.random_split_leak(np.random.default_rng(seed).permutation(groups)) == expected


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_random_split_leak_equals_a_simulation(fraction: float) -> None:
    groups = np.repeat(np.arange(12), [1, 1, 1, 1, 2, 2, 2, 3, 3, 5, 8, 14])
    generator = np.random.default_rng(0)
    leaks = []
    for _ in range(20_000):
        order = generator.permutation(groups)
        test, train = np.split(order, [round(fraction * len(groups))])
        leaks.append(np.isin(test, train).mean())
    error = np.std(leaks) / len(leaks) ** 0.5
    assert abs(np.mean(leaks) - split.random_split_leak(groups, fraction)) < 4 * error


def test_split_is_cached_and_a_damaged_one_replaced(
    synthetic_images: ImageStore, small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = ImageStore(Path(shutil.copytree(synthetic_images.path, tmp_path / "set")))
    caplog.set_level("INFO", "catae")

    def create(name: str, **changed: Any) -> tuple[dict[str, Any], bytes, str]:
        caplog.clear()
        settings = small.model_copy(update=changed)
        return (
            split.create_split(copied, settings, settings, tmp_path / name),
            (tmp_path / name).read_bytes(),
            caplog.text,
        )

    first, content, log = create("first.json")
    assert log == ""
    assert first["digest"] == files.digest(tmp_path / "first.json")
    again, same, log = create("again.json")
    assert (again, same) == (first, content)
    assert "its digest matches" in log
    cached = Path(re.search(r"the split in (\S+\.json)", log)[1])  # type: ignore[index]
    for changed in ({"seed": 1}, {"test_fraction": 0.3}, {"validation_fraction": 0.2}, {"duplicates": "drop"}):
        assert create("other.json", **changed)[2] == "", changed

    cached.write_bytes(content[:-9])
    counts, replaced, log = create("replaced.json")
    assert "is damaged: its digest does not match; splitting again" in log
    assert (counts, replaced, cached.read_bytes()) == (first, content, content)
    cached.with_suffix(".counts.json").write_text("{")
    assert create("replaced.json")[:2] == (first, content)
    cached.unlink()
    assert create("replaced.json") == (first, content, "")
