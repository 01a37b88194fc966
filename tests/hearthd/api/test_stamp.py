from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta, timezone

from hearthd.api import stamp


def test_now_is_utc_with_at_most_nine_digits() -> None:
    text = stamp.utc_now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z", text)
    assert abs((datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00") - datetime.now(UTC)).total_seconds()) < 60


def test_now_moves_over_the_border_of_a_second() -> None:
    texts = []
    end = time.monotonic() + 1.1
    while time.monotonic() < end:
        texts.append(stamp.utc_now()[:19])
        time.sleep(0.05)
    assert len(set(texts)) >= 2
    assert texts == sorted(texts)


def test_a_moment_keeps_its_offset() -> None:
    moment = datetime(2025, 1, 2, 3, 4, 5, 600000, timezone(timedelta(hours=2)))
    assert stamp.local(moment) == "2025-01-02T03:04:05.600000+02:00"
    assert stamp.local(moment.astimezone(UTC)) == "2025-01-02T01:04:05.600000Z"


def test_epoch_times_can_be_read_back() -> None:
    text = stamp.local_ns(1_700_000_000_123_456_789)
    assert datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() == 1_700_000_000.123456


def test_for_ever_is_a_date_far_ahead() -> None:
    assert stamp.local_ns(None).startswith("2318")
    assert stamp.local_ns((1 << 63) - 1) <= stamp.local_ns(None)
