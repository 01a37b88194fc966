from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hearthd.command.amounts import count_text, distance_text, duration_text, moment, size_text

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1500, "1.5 KB"),
        (91_740_000, "91 MB"),
        (99_999_999, "99 MB"),
        (1_000_000_000, "1 GB"),
        (4_661_000_000, "4.7 GB"),
        (9_960_000_000, "10.0 GB"),
        (2_500_000_000_000, "2.5 TB"),
    ],
)
def test_sizes_have_decimal_units(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (361_000, "361K"), (134_515_008, "134.52M"), (8_030_000_000, "8.0B")]
)
def test_counts_are_shortened(number: int, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (timedelta(seconds=0.4), "Less than a second ago"),
        (timedelta(seconds=1.9), "1 second ago"),
        (timedelta(seconds=59), "59 seconds ago"),
        (timedelta(seconds=119), "About a minute ago"),
        (timedelta(minutes=59), "59 minutes ago"),
        (timedelta(minutes=60), "About an hour ago"),
        (timedelta(minutes=91), "2 hours ago"),
        (timedelta(hours=47), "47 hours ago"),
        (timedelta(hours=48), "2 days ago"),
        (timedelta(days=14), "2 weeks ago"),
        (timedelta(days=60), "2 months ago"),
        (timedelta(days=730), "2 years ago"),
        (timedelta(minutes=-4, seconds=-30), "4 minutes from now"),
        (timedelta(days=-365 * 20), "20 years from now"),
        (timedelta(days=-365 * 292), "Forever"),
    ],
)
def test_times_are_told_by_their_distance(distance: timedelta, text: str) -> None:
    assert distance_text(NOW - distance, NOW) == text


def test_times_are_read_with_nine_digits_and_any_offset() -> None:
    then = moment("2026-01-31T12:59:59.123456789+02:00")
    assert then is not None
    assert distance_text(then, NOW) == "About an hour ago"


@pytest.mark.parametrize("text", ["", "0001-01-01T00:00:00Z", "soon"])
def test_no_time_is_never(text: str) -> None:
    assert distance_text(moment(text), NOW) == "Never"


@pytest.mark.parametrize(
    ("length_ns", "text"),
    [
        (0, "0ns"),
        (890, "890ns"),
        (39_920, "39.92µs"),
        (773_716_970, "773.71697ms"),
        (1_000_000_000, "1s"),
        (62_500_000_000, "1m2.5s"),
        (3_600_000_000_000, "1h0m0s"),
    ],
)
def test_durations_have_the_form_of_go(length_ns: int, text: str) -> None:
    assert duration_text(length_ns) == text
