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

DIGESTS = [f"picture {number}" for number in range(3000)]


def sides(digests: list[str], **options: object) -> dict[str, set[str]]:
    parts = split.split(digests, **options)  # type: ignore[arg-type]
    return {side: {digests[p] for p in getattr(parts, side)} for side in ("train", "test")}


def test_about_the_asked_share_is_test_and_every_picture_is_on_one_side() -> None:
    parts = split.split(DIGESTS, test_fraction=0.1)
    assert 250 < len(parts.test) < 350  # 300 on average, with a standard deviation of 16
    assert sorted(parts.train + parts.test) == list(range(3000))


def test_neither_order_nor_added_files_move_a_picture_to_the_other_side() -> None:
    shuffled = random.Random(0).sample(DIGESTS, len(DIGESTS))
    before, reordered, more = sides(DIGESTS), sides(shuffled), sides([*DIGESTS, *(f"new {n}" for n in range(3000))])
    assert before == reordered
    assert before["test"] <= more["test"]
    assert before["train"] <= more["train"]


def test_another_seed_is_another_split() -> None:
    first, second = sides(DIGESTS, seed=0)["test"], sides(DIGESTS, seed=1)["test"]
    assert len(first & second) < 60  # 30 by chance


def test_copies_are_always_on_the_same_side() -> None:
    twice = DIGESTS + DIGESTS[:2000]
    parts = split.split(twice)
    assert len(parts.train) + len(parts.test) == 5000
    assert split.shared(parts, twice) == 0


def test_drop_keeps_the_first_of_each() -> None:
    twice = DIGESTS + DIGESTS[:2000]
    parts = split.split(twice, duplicates="drop")
    assert parts.dropped == tuple(range(3000, 5000))
    assert (parts.train, parts.test) == (split.split(DIGESTS).train, split.split(DIGESTS).test)


def test_leaks_are_counted() -> None:
    assert split.shared(Split(train=(0, 1), test=(2, 3)), ["a", "b", "a", "c"]) == 1


@pytest.mark.parametrize("seed", range(20))
def test_of_a_handful_each_side_has_one(seed: int) -> None:
    for count in (2, 3, 5):
        parts = split.split(DIGESTS[:count], seed)
        assert parts.train
        assert parts.test


def test_what_cant_be_divided_is_told() -> None:
    with pytest.raises(UserError, match="3 pictures, 1 of them distinct"):
        split.split(["a", "a", "a"])


def test_a_split_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    parts = split.split(DIGESTS + DIGESTS[:5], duplicates="drop")
    names = [f"{number}.jpg" for number in range(3005)]
    split.save(parts, names, tmp_path / "split.json")
    assert split.open_split(tmp_path / "split.json", names) == parts
    with pytest.raises(UserError, match="which the pictures beside it have not"):
        split.open_split(tmp_path / "split.json", names[:100])


@pytest.mark.cats
def test_no_real_test_cat_stands_in_train(cats_set: ImageStore) -> None:
    parts = split.split(cats_set.keys)
    assert split.shared(parts, cats_set.digests) == 0
    assert split.shared(parts, cats_set.keys) == 0
    # A plain random split has 72 % of them in train: what is promised is not there by itself.
    order = random.Random(0).sample(range(len(cats_set)), len(cats_set))
    plain = Split(train=tuple(order[1575:]), test=tuple(order[:1575]))
    assert split.shared(plain, cats_set.digests) > 1000


def test_a_validation_part_is_between_and_leaves_the_test_pictures_as_they_were() -> None:
    plain, parts = split.split(DIGESTS), split.split(DIGESTS, validation_fraction=0.2)
    assert parts.test == plain.test
    assert 520 < len(parts.validation) < 680  # 600 on average, with a standard deviation of 22
    assert sorted(parts.train + parts.test + parts.validation) == list(range(3000))
    assert parts.stopping == parts.validation
    assert plain.stopping == plain.test
    twice = DIGESTS + DIGESTS[:2000]
    assert split.shared(split.split(twice, validation_fraction=0.2), twice) == 0


@pytest.mark.parametrize("seed", range(20))
def test_of_a_handful_each_of_three_parts_has_one(seed: int) -> None:
    for count in (3, 4, 6):
        parts = split.split(DIGESTS[:count], seed, 0.1, 0.1)
        assert parts.train
        assert parts.test
        assert parts.validation


def test_fractions_that_leave_nothing_for_train_are_told() -> None:
    with pytest.raises(UserError, match="their sum must be less than 1"):
        split.split(DIGESTS, test_fraction=0.5, validation_fraction=0.5)


def test_what_a_plain_random_split_leaks_is_measured() -> None:
    alone = np.arange(5000)
    assert split.plain_leak(alone) == 0
    assert split.plain_leak(alone // 2) == pytest.approx(0.9, abs=0.04)  # the other one is in train 9 times of 10


def test_a_split_is_kept_and_taken_again_while_it_is_whole_and_the_same_is_asked_for(
    drawn_set: ImageStore, small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = ImageStore(Path(shutil.copytree(drawn_set.path, tmp_path / "set")))
    caplog.set_level("INFO", "catae")

    def write(name: str, **changed: Any) -> tuple[dict[str, Any], bytes, str]:
        caplog.clear()
        asked = small.model_copy(update=changed)
        return split.write(copied, asked, asked, tmp_path / name), (tmp_path / name).read_bytes(), caplog.text

    first, bytes_, said = write("first.json")
    assert said == ""
    assert first["digest"] == files.digest(tmp_path / "first.json")
    again, same, said = write("again.json")
    assert (again, same) == (first, bytes_)
    assert "its digest checked" in said
    kept = Path(re.search(r"kept in (\S+\.json)", said)[1])  # type: ignore[index]
    for changed in ({"seed": 1}, {"test_fraction": 0.3}, {"validation_fraction": 0.2}, {"duplicates": "drop"}):
        assert write("other.json", **changed)[2] == "", changed

    kept.write_bytes(bytes_[:-9])
    damaged, mended, said = write("mended.json")
    assert "is damaged; dividing anew" in said
    assert (damaged, mended, kept.read_bytes()) == (first, bytes_, bytes_)
    kept.with_suffix(".counts.json").write_text("{")
    assert write("mended.json")[:2] == (first, bytes_)
    kept.unlink()
    assert write("mended.json") == (first, bytes_, "")
