from __future__ import annotations

import pytest

from hearthd.duration import FOREVER_NS, MINUTE_NS, SECOND_NS, keep_alive_ns, parse_duration


@pytest.mark.parametrize(
    ("text", "length_ns"),
    [
        ("0", 0),
        ("-0", 0),
        ("+5s", 5 * SECOND_NS),
        ("300ms", 300_000_000),
        ("1.5h", 90 * MINUTE_NS),
        ("1h2m3s", 3723 * SECOND_NS),
        (".5s", SECOND_NS // 2),
        ("1.s", SECOND_NS),
        ("2us", 2_000),
        ("2µs", 2_000),
        ("2μs", 2_000),
        ("7ns", 7),
        ("0.9ns", 0),
        ("-1m", -MINUTE_NS),
        ("0.333333333333333333333s", 333_333_333),
        ("9223372036854775807ns", FOREVER_NS),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, length_ns: int) -> None:
    assert parse_duration(text) == length_ns


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        (".s", 'time: invalid duration ".s"'),
        ("1..5s", 'time: missing unit in duration "1..5s"'),
        (" 5m", 'time: invalid duration " 5m"'),
        ("10", 'time: missing unit in duration "10"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1H", 'time: unknown unit "H" in duration "1H"'),
        ("١s", 'time: invalid duration "١s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("9" * 99 + "h", f'time: invalid duration "{"9" * 99}h"'),
    ],
)
def test_other_text_is_refused_in_go_s_words(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value) == sentence


def test_endless_text_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration("1h" * 1_000_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "length_ns"),
    [
        (0, 0),
        (42, 42 * SECOND_NS),
        (0.25, SECOND_NS // 4),
        (-1, FOREVER_NS),
        (-0.001, FOREVER_NS),
        (1e300, FOREVER_NS),
        (10**30, FOREVER_NS),
        ("-1s", FOREVER_NS),
        ("0", 0),
        ("5m", 5 * MINUTE_NS),
    ],
)
def test_keep_alive_takes_seconds_and_durations(value: float | str, length_ns: int) -> None:
    assert keep_alive_ns(value) == length_ns
