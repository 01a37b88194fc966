"""Times as the API writes them: RFC 3339, up to nine fractional digits, always with an offset."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

FOREVER = datetime(2318, 1, 1, tzinfo=UTC)  # as far ahead as a client's 64-bit nanoseconds reach, and no more
_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Second:
    """The last second formatted: within it only the fraction changes."""

    value = -1
    text = ""


def utc_now() -> str:
    """Now, in UTC: "2025-01-31T08:00:00.25Z"."""
    second, fraction_ns = divmod(time.time_ns(), _NS)
    if second != _Second.value:
        _Second.text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _Second.value = second
    return f"{_Second.text}{_fraction(fraction_ns)}Z"


def local(moment: datetime) -> str:
    """`moment` with the offset it carries."""
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def local_ns(epoch_ns: int | None) -> str:
    """A wall-clock time in ns since 1970 with this machine's offset; None is forever."""
    if epoch_ns is None:
        return local(FOREVER)
    seconds, fraction_ns = divmod(epoch_ns, _NS)
    moment = _EPOCH + timedelta(seconds=seconds, microseconds=fraction_ns // 1000)
    return local(min(moment, FOREVER).astimezone())


def _fraction(fraction_ns: int) -> str:
    return f".{fraction_ns:09d}".rstrip("0").rstrip(".")
