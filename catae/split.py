"""Which picture is train and which is test: decided by what it shows, so that no copy of it is on the other side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from catae import files, randomness
from catae.errors import UserError


@dataclass(frozen=True)
class Split:
    """Positions in the image set: `train` and `test`, each ascending, and `dropped`, which is in neither."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    dropped: tuple[int, ...] = ()


def split(
    digests: Sequence[str],
    seed: int = 0,
    test_fraction: float = 0.1,
    duplicates: Literal["group", "drop"] = "group",
) -> Split:
    """Divides pictures into train and test by content.

    A picture is test if a number in [0, 1), made from the seed and the picture's digest, is below
    `test_fraction`. So neither the order of the files, nor their names, nor files that are added later move a
    picture to the other side, and copies are always on the same side. The share of test pictures is therefore
    `test_fraction` on average, not exactly.

    Args:
        digests: what each picture shows, in one word: copies have the same.
        seed: another seed gives another split.
        test_fraction: share of the distinct pictures that is test, in (0, 1).
        duplicates: 'group' keeps all copies; 'drop' keeps the first of each.

    Raises:
        UserError: fewer than two distinct pictures, which can't be divided.
    """
    places = {digest: randomness.number(seed, f"split {digest}") / 2**63 for digest in digests}
    if len(places) < 2:
        raise UserError(
            f"{len(digests)} pictures, {len(places)} of them distinct, can't be divided; at least 2 are needed"
        )
    # Of a handful none may be below the threshold, or all: the lowest is test and the highest train, always.
    test_digests = {digest for digest, place in places.items() if place < test_fraction}
    test_digests = (test_digests | {min(places, key=places.__getitem__)}) - {max(places, key=places.__getitem__)}

    first = {digest: position for position, digest in reversed(list(enumerate(digests)))}
    kept = [p for p, digest in enumerate(digests) if duplicates == "group" or first[digest] == p]
    return Split(
        train=tuple(p for p in kept if digests[p] not in test_digests),
        test=tuple(p for p in kept if digests[p] in test_digests),
        dropped=tuple(sorted(set(range(len(digests))) - set(kept))),
    )


def shared(parts: Split, digests: Sequence[str]) -> int:
    """How many test pictures have the pixels of a train picture: 0, if the split is honest."""
    train = {digests[position] for position in parts.train}
    return sum(digests[position] in train for position in parts.test)


def save(parts: Split, names: Sequence[str], path: Path) -> None:
    """Writes the split to `path`, by name, for people and machines."""
    sides = {"train": parts.train, "test": parts.test, "dropped": parts.dropped}
    files.write_json(path, {side: [names[position] for position in positions] for side, positions in sides.items()})


def open_split(path: Path, names: Sequence[str]) -> Split:
    """The split in the file `path`, of the set with these `names`.

    Raises:
        UserError: the file can't be read, or names a picture that the set has not.
    """
    position = {name: index for index, name in enumerate(names)}
    sides = files.read_json(path)
    try:
        return Split(**{side: tuple(position[name] for name in sides[side]) for side in ("train", "test", "dropped")})
    except KeyError as error:
        raise UserError(f"{path} names {error}, which the pictures beside it have not; run the job again") from error
