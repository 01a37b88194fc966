"""Sizes, counts and times for people, as Ollama's command line writes them."""

from __future__ import annotations

from datetime import datetime

SECOND_NS = 1_000_000_000
_SIZES = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_COUNTS = (("B", 10**9), ("M", 10**6), ("K", 10**3))
_FOREVER_YEARS = 20


def size_text(num_bytes: int) -> str:
    """`4.7 GB`, `91 MB`, `512 B`: decimal units, one digit behind the point below ten unless it is 0."""
    for unit, scale in _SIZES:
        if num_bytes >= scale:
            value = num_bytes / scale
            whole = value >= 10 or num_bytes % scale == 0
            return f"{int(value)} {unit}" if whole else f"{value:.1f} {unit}"
    return f"{num_bytes} B"


def count_text(number: int) -> str:
    """`8.0B`, `134.52M`, `361K`."""
    for unit, scale in _COUNTS:
        if number >= scale:
            digits = {"B": 1, "M": 2, "K": 0}[unit]
            return f"{number / scale:.{digits}f}{unit}"
    return str(number)


def moment(text: str) -> datetime | None:
    """The time that an RFC 3339 text tells; None for the zero time, and for what is no time."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return None
    return value.astimezone() if value.year > 1 else None


def distance_text(then: datetime | None, now: datetime) -> str:
    """`2 minutes ago`, `4 minutes from now`, `Forever` beyond twenty years, `Never` for None."""
    if then is None:
        return "Never"
    seconds = (now - then).total_seconds()
    if -seconds >= (_FOREVER_YEARS + 1) * 365 * 24 * 3600:
        return "Forever"
    return f"{_about(-seconds)} from now" if seconds < 0 else f"{_about(seconds)} ago"


def _about(seconds: float) -> str:
    if seconds < 60:
        return _seconds(int(seconds))
    if seconds < 3600:
        minutes = int(seconds // 60)
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for most_hours, unit_hours, unit in (
        (48, 1, "hours"),
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 365 * 2, 24 * 30, "months"),
    ):
        if hours < most_hours:
            return f"{hours // unit_hours} {unit}"
    return f"{int(seconds) // (3600 * 24 * 365)} years"


def _seconds(seconds: int) -> str:
    if seconds < 1:
        return "Less than a second"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def duration_text(length_ns: int) -> str:
    """A duration in Go's form: `1m2.5s`, `1.234567s`, `56.7ms`, `890ns`."""
    if length_ns < SECOND_NS:
        for unit, scale_ns in (("ms", 1_000_000), ("µs", 1_000)):
            if length_ns >= scale_ns:
                return _fraction(length_ns, scale_ns) + unit
        return f"{length_ns}ns"
    minutes, rest_ns = divmod(length_ns, 60 * SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{_fraction(rest_ns, SECOND_NS)}s"


def _fraction(length_ns: int, scale_ns: int) -> str:
    whole, rest = divmod(length_ns, scale_ns)
    digits = f"{rest:0{len(str(scale_ns)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
