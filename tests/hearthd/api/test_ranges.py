from __future__ import annotations

import pytest

from hearthd.api.ranges import Span, Unsatisfiable, is_known, is_same, parse_range

ETAG = '"sha256:aa"'


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=2-5", Span(2, 6)),
        ("Bytes= 2-5 ", Span(2, 6)),
        ("bytes=7-", Span(7, 10)),
        ("bytes=0-99", Span(0, 10)),
        ("bytes=-3", Span(7, 10)),
        ("bytes=-99", Span(0, 10)),
    ],
)
def test_a_range_is_cut_to_the_content(header: str, span: Span) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize(
    "header", ["", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=" + "9" * 30 + "-", "0-1"]
)
def test_what_makes_no_range_is_ignored(header: str) -> None:
    assert parse_range(header, 10) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_behind_the_end_is_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


@pytest.mark.parametrize(
    ("header", "known"),
    [("", False), ("*", True), (ETAG, True), (f'"b", W/{ETAG}', True), ('"b"', False), ("sha256:aa", False)],
)
def test_if_none_match_compares_weakly(header: str, known: bool) -> None:
    assert is_known(header, ETAG) is known


@pytest.mark.parametrize(
    ("header", "same"), [("", True), (ETAG, True), (f"W/{ETAG}", False), ("Sun, 01 Jan 2023 00:00:00 GMT", False)]
)
def test_if_range_compares_strongly(header: str, same: bool) -> None:
    assert is_same(header, ETAG) is same
