"""What a flag of `catae sweep` says: one value of a setting, several, or a range of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from catae import settings
from catae.errors import UserError
from catae.settings import RESUME_SAFE, Settings

NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
RANGE = re.compile(rf"\s*({NUMBER})\.\.({NUMBER})\s*", re.IGNORECASE)
DECADE = 10  # a range whose upper end is so many times the lower is searched on a log scale


@dataclass(frozen=True)
class Span:
    """All values from `low` to `high`, both included: whole numbers if these are."""

    low: float
    high: float

    @property
    def whole(self) -> bool:
        """Whether it is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def log(self) -> bool:
        """Whether it is wide enough for what counts to be how many times one value is another."""
        return self.low > 0 and self.high >= DECADE * self.low


Choice = Sequence[Any] | Span


def parse(name: str, said: Any) -> Choice:
    """What is said of the setting `name`: its values, checked, in the order in which they are named, or a span.

    Args:
        name: of the setting.
        said: a value, or the text of a flag. Commas and dots mean something only in the text of a setting that decides
            what is learned: a path may have them.

    Raises:
        UserError: a value is out of the setting's range, or the range is upside down.
    """
    if name not in Settings.model_fields or name in RESUME_SAFE or not isinstance(said, str):
        return [_checked(name, said)]
    numeric = Settings.model_fields[name].annotation in (int, float)
    if numeric and (ends := RANGE.fullmatch(said)):
        low, high = (_checked(name, end) for end in ends.groups())
        if low > high:
            raise UserError(
                f"{flag(name)} is {said!r}: a range goes from the lower end to the higher, like {high}..{low}"
            )
        if allowed := _allowed(name):
            return [value for value in allowed if low <= value <= high]
        return Span(low, high) if low < high else [low]
    return list(dict.fromkeys(_checked(name, value.strip()) for value in said.split(",")))


def listed(name: str, choice: Choice) -> Sequence[Any]:
    """Every value of a choice.

    Raises:
        UserError: it is a range of real numbers, which has no end of values.
    """
    if not isinstance(choice, Span):
        return choice
    if not choice.whole:
        raise UserError(
            f"{flag(name)} is {choice.low}..{choice.high}: only whole numbers can all be tried; list "
            "values, or search with --trials"
        )
    return range(int(choice.low), int(choice.high) + 1)


def is_one(choice: Choice) -> bool:
    """Whether there is nothing to choose."""
    return not isinstance(choice, Span) and len(choice) == 1


def flag(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def plain(choice: Choice) -> Any:
    """A choice as JSON has it."""
    return asdict(choice) if isinstance(choice, Span) else list(choice)


def _checked(name: str, value: Any) -> Any:
    return getattr(settings.load({name: value}), name)


def _allowed(name: str) -> Sequence[Any]:
    """The values that a number may have, where they are few."""
    extra = Settings.model_fields[name].json_schema_extra
    values = extra.get("enum") if isinstance(extra, Mapping) else None
    return values if isinstance(values, list) else ()
