"""Parse the flags of `catae sweep`: one value of a setting, several, or a range."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from catae import settings
from catae.errors import UserError
from catae.settings import RESUME_SAFE, Settings

NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
RANGE = re.compile(rf"\s*({NUMBER})\.\.({NUMBER})\s*", re.IGNORECASE)
LOG_RATIO = 10  # a range with this ratio of its ends, or more, is searched on a log scale


@dataclass(frozen=True)
class Range:
    """All values from `low` to `high`, inclusive: whole numbers if both ends are."""

    low: float
    high: float

    @property
    def is_integer(self) -> bool:
        """Return whether it contains whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def log(self) -> bool:
        """Return whether to search on a log scale."""
        return self.low > 0 and self.high >= LOG_RATIO * self.low


Choice = Sequence[Any] | Range


def parse(name: str, value: Any) -> Choice:
    """Return the values of the setting `name`, checked and in the given order, or a range.

    Args:
        name: of the setting.
        value: a value, or the text of a flag. Commas and `..` have a meaning only for hyperparameters: a path may
            contain them.

    Raises:
        UserError: a value is out of the setting's range, or the ends are in the wrong order.
    """
    if name not in Settings.model_fields or name in RESUME_SAFE or not isinstance(value, str):
        return [_validate(name, value)]
    numeric = Settings.model_fields[name].annotation in (int, float)
    if numeric and (ends := RANGE.fullmatch(value)):
        low, high = (_validate(name, end) for end in ends.groups())
        if low > high:
            raise UserError(f"{flag(name)} is {value!r}: a range starts at its lower end, like {high}..{low}")
        if allowed := _allowed(name):
            return [number for number in allowed if low <= number <= high]
        return Range(low, high) if low < high else [low]
    return list(dict.fromkeys(_validate(name, each.strip()) for each in value.split(",")))


def list_values(name: str, choice: Choice) -> Sequence[Any]:
    """Return every value of a choice.

    Raises:
        UserError: it is a range of real numbers.
    """
    if not isinstance(choice, Range):
        return choice
    if not choice.is_integer:
        raise UserError(
            f"{flag(name)} is {choice.low}..{choice.high}: a grid accepts ranges of whole numbers only; list values, "
            "or search with --trials"
        )
    return range(int(choice.low), int(choice.high) + 1)


def is_single(choice: Choice) -> bool:
    """Return whether there is nothing to choose."""
    return not isinstance(choice, Range) and len(choice) == 1


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{name.replace('_', '-')}"


def to_json(choice: Choice) -> Any:
    """Return a choice as JSON values."""
    return asdict(choice) if isinstance(choice, Range) else list(choice)


def _validate(name: str, value: Any) -> Any:
    return getattr(settings.load({name: value}), name)


def _allowed(name: str) -> Sequence[Any]:
    """Return the values that a numeric setting may have, if they are enumerated."""
    extra = Settings.model_fields[name].json_schema_extra
    values = extra.get("enum") if isinstance(extra, Mapping) else None
    return values if isinstance(values, list) else ()
