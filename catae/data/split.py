"""Split images into train, test and validation by content, so that duplicates are never in different parts."""

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

FORMAT = 1  # of a cached split and of the algorithm; increase it to invalidate every cached split
TEST, VALIDATION, TRAIN, DROPPED = range(4)


@dataclass(frozen=True)
class Split:
    """Positions in the image set, ascending in each part; `dropped` images are in no part."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    validation: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


def split(
    keys: Sequence[str],
    seed: int = 0,
    test_fraction: float = 0.1,
    validation_fraction: float = 0.0,
    duplicates: Literal["group", "drop"] = "group",
) -> Split:
    """Split images into train, test and validation by content.

    The seed and an image's key determine a number in [0, 1). The image is in test if the number is below
    `test_fraction`, and in validation if it is in the next `validation_fraction`. So an image stays in its part when
    files are reordered, renamed or added, and duplicates share a part. The test fraction holds on average, not exactly.

    Args:
        keys: one key for each image, the same for duplicates.
        seed: seed of the split.
        test_fraction: fraction of the distinct images in test, in (0, 1).
        validation_fraction: fraction in validation, in [0, 1 - test_fraction).
        duplicates: 'group' keeps all duplicates; 'drop' keeps the first of each group.

    Raises:
        UserError: there are fewer distinct images than parts, or none would be left for train.
    """
    if test_fraction + validation_fraction >= 1:
        raise UserError(
            f"no images are left to train on: CATAE_TEST_FRACTION is {test_fraction} and CATAE_VALIDATION_FRACTION is "
            f"{validation_fraction}; their sum must be less than 1"
        )
    first: dict[str, int] = {}  # each distinct key's index, in order of appearance
    numbers = np.fromiter((first.setdefault(key, len(first)) for key in keys), np.int64, len(keys))
    needed = 3 if validation_fraction else 2
    if len(first) < needed:
        raise UserError(f"cannot split {len(keys)} images, {len(first)} of them distinct; at least {needed} are needed")
    places = np.fromiter((rng.number(seed, f"split {key}") / 2**63 for key in first), float, len(first))
    part_of = np.searchsorted([test_fraction, test_fraction + validation_fraction], places, side="right")
    # Ensure that no part is empty in a small set: the lowest number is always test and the highest always train.
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


def overlap(parts: Split, keys: Sequence[str]) -> int:
    """Return how many test and validation images share a key with a train image. It should be 0."""
    train = {keys[position] for position in parts.train}
    return sum(keys[position] in train for position in (*parts.test, *parts.validation))


def random_split_leak(groups: npt.NDArray[np.int64], test_fraction: float = 0.1) -> float:
    """Return the expected fraction of test images with a duplicate in train if the test images were drawn at random.

    Of n images t are in test. The s - 1 duplicates of a test image are all among the other t - 1 test images with
    probability (t - 1)/(n - 1) · (t - 2)/(n - 2) ⋯ (t - s + 1)/(n - s + 1), by the hypergeometric distribution.
    Otherwise one is in train. The order of the images does not matter.

    Args:
        groups: (images,), the same number for duplicates.
        test_fraction: fraction of test images.
    """
    sizes, counts = np.unique(np.unique(groups, return_counts=True)[1], return_counts=True)
    total, test = len(groups), max(1, round(test_fraction * len(groups)))
    drawn = np.arange(1, sizes[-1])
    none_in_train = np.concatenate([[1.0], np.cumprod((test - drawn).clip(0) / (total - drawn))])
    return float(sizes * counts @ (1 - none_in_train[sizes - 1]) / total)


def save_split(parts: Split, names: Sequence[str], path: Path) -> None:
    """Write the split to `path` as JSON with the names of the images."""
    files.write_json(path, {part.name: [names[p] for p in getattr(parts, part.name)] for part in fields(Split)})


def create_split(images: ImageStore, data: DataSettings, training: TrainingSettings, path: Path) -> dict[str, Any]:
    """Split an image set, write the split to `path`, and return its counts and digest.

    The split is cached in the folder of the image set, and reused for the same settings if its digest matches.

    Args:
        images: the image set.
        data: the fractions and what to do with duplicates.
        training: the seed.
        path: the file to write.

    Raises:
        UserError: as `split`, or a file cannot be written.
    """
    options = (training.seed, data.test_fraction, data.validation_fraction, data.duplicates)
    cached = images.path / f"split-{files.digest_of([FORMAT, images.digest, *options])[:16]}.json"
    counts_file = cached.with_suffix(".counts.json")
    if (counts := _load_cached(cached, counts_file)) is None:
        parts = split(images.keys, *options)
        save_split(parts, images.names, cached)
        counts = {
            "train": len(parts.train),
            "test": len(parts.test),
            "validation": len(parts.validation),
            "dropped": len(parts.dropped),
            "distinct_test": len({images.digests[position] for position in parts.test}),
            "test_pixels_in_train": overlap(parts, images.digests),
            "test_copies_in_train": overlap(parts, images.keys),
            "digest": files.digest(cached),
        }
        files.write_json(counts_file, counts)
    else:
        logger.info("reusing the split in %s; its digest matches", cached)
    files.write_bytes(path, cached.read_bytes())
    return counts


def _load_cached(cached: Path, counts_file: Path) -> dict[str, Any] | None:
    """Return the counts of a cached split, or None if it is missing or damaged."""
    if not counts_file.exists() or not cached.exists():
        return None
    try:
        counts: dict[str, Any] = files.read_json(counts_file)
    except UserError as error:
        logger.warning("%s; splitting again", error)
        return None
    if files.digest(cached) != counts["digest"]:
        logger.warning("%s is damaged: its digest does not match; splitting again", cached)
        return None
    return counts


def open_split(path: Path, names: Sequence[str]) -> Split:
    """Read the split in the file `path`.

    Args:
        path: the file.
        names: the names of the image set.

    Raises:
        UserError: the file cannot be read, or names an image that is not in the set.
    """
    position = {name: index for index, name in enumerate(names)}
    split_names = files.read_json(path)
    try:
        return Split(**{part.name: tuple(position[name] for name in split_names[part.name]) for part in fields(Split)})
    except KeyError as error:
        raise UserError(f"{path} names {error}, which is not in the image set; run the job again") from error
