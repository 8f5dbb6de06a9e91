"""Format numbers, times and names for people."""

from datetime import UTC, datetime


# `humanize` has no plurals of nouns, and its durations do not fit a table: '12 minutes and 30 seconds', or 'a moment'
# for 0.7 s. It would replace 6 lines of this module.
def count(number: int, noun: str) -> str:
    """Return a number of things, such as '1 image' or '1,690 images'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration, such as '0.73 s', '42 s', '12 min 30 s' or '1 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def timestamp(iso: str) -> str:
    """Return an ISO 8601 time as text, such as '24 November 2026, 17:18 UTC'."""
    utc = datetime.fromisoformat(iso).astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"


def utc_now() -> str:
    """Return the current time in UTC as the manifests record it, such as '2026-11-24T17:18:03+00:00'."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def percent(fraction: float) -> str:
    """Return a fraction in per cent. Only exactly 0 becomes '0%', and only exactly 1 becomes '100%'."""
    if 0 < fraction < 0.01:
        return "less than 1%"
    return "more than 99%" if 0.99 < fraction < 1 else f"{fraction:.0%}"


def printable(text: str) -> str:
    """Return `text` with control characters and bidi marks escaped, such as '\\x1b'."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
