from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hearthd.errors import BadRequest
from hearthd.options import (
    OPTIONS,
    OptionError,
    Options,
    check_option,
    merge,
    parse_parameter,
)


def test_every_option_has_one_field_and_one_type() -> None:
    assert set(OPTIONS) == {field.name for field in msgspec.structs.fields(Options)}


def test_defaults_are_valid_values_of_their_options() -> None:
    for name, value in msgspec.structs.asdict(Options()).items():
        if value is not None:
            assert check_option(name, value) == value


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        ("top_k", 7, 7),
        ("top_k", 7.9, 7),
        ("seed", -7.9, -7),
        ("seed", 10**30, 2**63 - 1),
        ("temperature", 1, 1.0),
        ("use_mmap", False, False),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop", [], ()),
    ],
)
def test_json_numbers_take_the_option_s_type(name: str, value: object, want: object) -> None:
    got = check_option(name, value)
    assert got == want
    assert type(got) is type(want)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("temperature", True, 'option "temperature" must be of type float32'),
        ("temperature", float("nan"), 'option "temperature" must be of type float32'),
        ("top_k", "40", 'option "top_k" must be of type integer'),
        ("top_k", False, 'option "top_k" must be of type integer'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("stop", "x", 'option "stop" must be of type array'),
        ("stop", ["x", 1], 'option "stop" must be of an array of strings'),
    ],
)
def test_other_json_types_are_refused_with_500(name: str, value: object, sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        merge({name: value})
    assert str(caught.value) == sentence
    assert caught.value.status == 500


def test_request_wins_over_model_and_null_over_nothing() -> None:
    model = {"temperature": 0.1, "top_k": 5, "stop": ["a"]}
    request = {"temperature": 0.9, "top_k": None, "stop": ["b", "c"]}
    merged = merge(model, request)
    assert (merged.temperature, merged.top_k, merged.stop) == (0.9, 5, ("b", "c"))
    assert merge(None, {}) == Options()
    assert merge({"top_k": 1}, defaults=Options(num_ctx=8)) == Options(num_ctx=8, top_k=1)


def test_unknown_options_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert merge({"num_gqa": 8}) == Options()
    assert "num_gqa" in caplog.text


def test_options_that_nobody_set_leave_what_is_loaded() -> None:
    unset = Options()
    assert (unset.num_ctx, unset.use_mmap, unset.use_mlock) == (None, None, None)
    assert merge({"use_mlock": False}).use_mlock is False


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("top_k", "+5", 5),
        ("seed", "-1", -1),
        ("temperature", "1", 1.0),
        ("temperature", "1e-1", 0.1),
        ("use_mmap", "T", True),
        ("penalize_newline", "0", False),
        ("stop", "", ("",)),
    ],
)
def test_parameter_text_takes_the_option_s_type(name: str, text: str, want: Any) -> None:
    assert parse_parameter(name, text) == want


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("warmth", "1", "unknown parameter 'warmth'"),
        ("top_k", "1.5", "invalid int value [1.5]"),
        ("top_k", "1_0", "invalid int value [1_0]"),
        ("top_k", "", "invalid int value []"),
        ("top_k", "9" * 5000, f"invalid int value [{'9' * 100}]"),
        ("seed", "9223372036854775808", "invalid int value [9223372036854775808]"),
        ("temperature", "warm", "invalid float value [warm]"),
        ("temperature", "nan", "invalid float value [nan]"),
        ("temperature", "1e999", "invalid float value [1e999]"),
        ("use_mmap", "foo", "invalid bool value [foo]"),
    ],
)
def test_unfit_parameter_text_is_refused(name: str, text: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_parameter(name, text)
    assert str(caught.value) == sentence
