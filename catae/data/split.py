"""Which picture is train and which is test: decided by what it shows, so that no copy of it is on the other side."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.settings import DataSettings, TrainingSettings
from catae.system import files, rng

logger = logging.getLogger(__name__)

FORMAT = 1  # of a split that is kept, and of the dividing: one more makes every split anew
TEST, VALIDATION, TRAIN, DROPPED = range(4)


@dataclass(frozen=True)
class Split:
    """Positions in the image set, each ascending; `dropped` is in no part."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    validation: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()

    @property
    def stopping(self) -> tuple[int, ...]:
        """The pictures that decide when training ends and which epoch is kept: validation, or test without one."""
        return self.validation or self.test


def split(
    keys: Sequence[str],
    seed: int = 0,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.0,
    duplicates: Literal["group", "drop"] = "group",
) -> Split:
    """Divides pictures into train, test and validation by content.

    A picture is test if a number in [0, 1), made from the seed and the picture's key, is below `test_fraction`, and
    validation if it is in the next `validation_fraction`. So neither the order of the files, nor their names, nor
    files that are added later move a picture to another part, and copies are always in the same one. The share of
    test pictures is therefore `test_fraction` on average, not exactly.

    Args:
        keys: what each picture shows, in one word: copies have the same.
        seed: another seed gives another split.
        test_fraction: share of the distinct pictures that is test, in (0, 1).
        validation_fraction: share that is validation, in [0, 1 - test_fraction).
        duplicates: 'group' keeps all copies; 'drop' keeps the first of each.

    Raises:
        UserError: fewer distinct pictures than parts, or nothing left for train.
    """
    if test_fraction + validation_fraction >= 1:
        raise UserError(
            f"CATAE_TEST_FRACTION and CATAE_VALIDATION_FRACTION, {test_fraction} and {validation_fraction}, leave "
            "nothing to train on; their sum must be less than 1"
        )
    first: dict[str, int] = {}  # the number of each key, in the order in which they come
    numbers = np.fromiter((first.setdefault(key, len(first)) for key in keys), np.int64, len(keys))
    needed = 3 if validation_fraction else 2
    if len(first) < needed:
        raise UserError(f"{len(keys)} pictures, {len(first)} of them distinct, can't be divided; {needed} are needed")
    places = np.fromiter((rng.number(seed, f"split {key}") / 2**63 for key in first), float, len(first))
    part_of = np.searchsorted([test_fraction, test_fraction + validation_fraction], places, side="right")
    # Of a handful a part may have none: the lowest is always test and the highest train, and one is validation.
    lowest, second, highest = np.argsort(places, kind="stable")[[0, 1, -1]]
    part_of[lowest], part_of[highest] = TEST, TRAIN
    if validation_fraction and VALIDATION not in part_of:
        part_of[second] = VALIDATION

    parts = part_of[numbers]
    if duplicates == "drop":
        kept = np.zeros(len(keys), bool)
        kept[np.unique(numbers, return_index=True)[1]] = True
        parts[~kept] = DROPPED
    positions = (tuple(np.flatnonzero(parts == part).tolist()) for part in (TRAIN, TEST, VALIDATION, DROPPED))
    return Split(*positions)


def shared(parts: Split, keys: Sequence[str]) -> int:
    """How many test and validation pictures have the key of a train picture: 0, if the split is honest."""
    train = {keys[position] for position in parts.train}
    return sum(keys[position] in train for position in (*parts.test, *parts.validation))


def plain_leak(groups: npt.NDArray[np.int64], test_fraction: float = 0.1) -> float:
    """The share of test pictures with a copy in train, had they been divided at random, each on its own.

    Args:
        groups: (pictures,), the same number for copies of each other.
        test_fraction: share that is test.
    """
    order = np.random.default_rng(0).permutation(len(groups))
    test, train = np.split(order, [max(1, round(test_fraction * len(groups)))])
    return float(np.isin(groups[test], groups[train]).mean())


def save(parts: Split, names: Sequence[str], path: Path) -> None:
    """Writes the split to `path`, by name, for people and machines."""
    files.write_json(path, {part.name: [names[p] for p in getattr(parts, part.name)] for part in fields(Split)})


def write(images: ImageStore, data: DataSettings, training: TrainingSettings, path: Path) -> dict[str, Any]:
    """Divides a set and saves the split to `path`; gives its counts, and its digest.

    The split is kept beside the set's pictures: where the same was asked for before, and its file is there with the
    digest that it had, it is copied.

    Args:
        images: the pictures.
        data: says into which parts.
        training: has the seed.
        path: of the file to write.

    Raises:
        UserError: as `split`, or something can't be written.
    """
    asked = (training.seed, data.test_fraction, data.validation_fraction, data.duplicates)
    kept = images.path / f"split-{files.digest_of([FORMAT, images.digest, *asked])[:16]}.json"
    counts = kept.with_suffix(".counts.json")
    if (known := _kept(kept, counts)) is None:
        parts = split(images.keys, *asked)
        save(parts, images.names, kept)
        known = {
            "train": len(parts.train),
            "test": len(parts.test),
            "validation": len(parts.validation),
            "dropped": len(parts.dropped),
            "distinct_test": len({images.digests[position] for position in parts.test}),
            "test_pixels_in_train": shared(parts, images.digests),
            "test_copies_in_train": shared(parts, images.keys),
            "digest": files.digest(kept),
        }
        files.write_json(counts, known)
    else:
        logger.info("the split is the one kept in %s, its digest checked", kept)
    files.write_bytes(path, kept.read_bytes())
    return known


def _kept(kept: Path, counts: Path) -> dict[str, Any] | None:
    """What is known of a split that was kept; None if it isn't there as it was written."""
    if not counts.exists() or not kept.exists():
        return None
    try:
        known: dict[str, Any] = files.read_json(counts)
    except UserError as error:
        logger.warning("%s; dividing anew", error)
        return None
    if files.digest(kept) != known["digest"]:
        logger.warning("%s is damaged; dividing anew", kept)
        return None
    return known


def open_split(path: Path, names: Sequence[str]) -> Split:
    """The split in the file `path`, of the set with these `names`.

    Raises:
        UserError: the file can't be read, or names a picture that the set has not.
    """
    position = {name: index for index, name in enumerate(names)}
    named = files.read_json(path)
    try:
        return Split(**{part.name: tuple(position[name] for name in named[part.name]) for part in fields(Split)})
    except KeyError as error:
        raise UserError(f"{path} names {error}, which the pictures beside it have not; run the job again") from error
