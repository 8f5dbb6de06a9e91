"""Write numbers, times and names for people."""

from datetime import UTC, datetime


# `humanize` has no plurals of nouns, and its durations do not fit a table: '12 minutes and 30 seconds', or 'a moment'
# for 0.7 s. It would replace 6 lines of this module.
def count(number: int, noun: str) -> str:
    """A number of things, like '1 picture' or '1,690 pictures'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time for people, like '0.73 s', '42 s', '12 min 30 s' or '1 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(iso: str) -> str:
    """A time of `run.json` for people, like '24 November 2026, 17:18 UTC'."""
    then = datetime.fromisoformat(iso).astimezone(UTC)
    return f"{then.day} {then:%B %Y, %H:%M} UTC"


def utc_now() -> str:
    """Return the current time in UTC as the manifests record it, like '2026-11-24T17:18:03+00:00'."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def share(part: float) -> str:
    """A share in per cent; only none is 0%, and only all is 100%."""
    if 0 < part < 0.01:
        return "less than 1%"
    return "more than 99%" if 0.99 < part < 1 else f"{part:.0%}"


def visible(text: str) -> str:
    """`text` with an escape like '\\x1b' in the place of what steers a terminal or hides: controls, bidi marks."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
