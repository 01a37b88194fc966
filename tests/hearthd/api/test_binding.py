from __future__ import annotations

import pytest

from hearthd.api.binding import bind
from hearthd.api.wire import ChatRequest, CreateRequest, DeleteRequest, GenerateRequest, ShowRequest
from hearthd.errors import BadRequest


def test_field_names_match_in_any_case() -> None:
    request = bind(b'{"MODEL": "m", "Messages": [{"Role": "user", "CONTENT": "hi"}]}', ChatRequest)
    assert (request.model, request.messages[0].role, request.messages[0].content) == ("m", "user", "hi")


def test_null_is_absent_at_every_depth() -> None:
    body = b'{"model": "m", "prompt": null, "stream": null, "options": null, "context": null, "images": null}'
    request = bind(body, GenerateRequest)
    assert (request.prompt, request.stream, request.options, request.context) == ("", True, {}, None)
    assert bind(b'{"messages": [{"role": "user", "content": null}]}', ChatRequest).messages[0].content == ""


def test_unknown_fields_are_ignored() -> None:
    assert bind(b'{"model": "m", "nonsense": {"a": [1]}}', ShowRequest).model == "m"


@pytest.mark.parametrize("tail", [b"x", b"{}", b"\n\n", b"]", b"\x00", b"\xff"])
def test_bytes_after_the_first_value_are_ignored(tail: bytes) -> None:
    assert bind(b'{"model": "m"}' + tail, DeleteRequest).model == "m"


def test_values_that_lenient_clients_send_are_taken() -> None:
    body = b'{"format": "", "tools": [], "options": {}, "messages": [{"images": []}], "top_logprobs": 0.0}'
    request = bind(body, ChatRequest)
    assert (request.format, request.tools, request.options, request.top_logprobs) == ("", [], {}, 0)


def test_option_names_keep_their_case() -> None:
    assert bind(b'{"options": {"Temperature": 1, "seed": null}}', ChatRequest).options == {
        "Temperature": 1,
        "seed": None,
    }


def test_words_of_python_are_fields_too() -> None:
    assert bind(b'{"from": "m", "license": "MIT"}', CreateRequest).from_ == "m"
    assert bind(b'{"license": ["MIT", "BSD"]}', CreateRequest).license == ["MIT", "BSD"]


@pytest.mark.parametrize("body", [b'{"prompt": "a\xffb"}', b'{"prompt": "a\\ud800b"}', b'{"prompt": "a\\udc00b"}'])
def test_text_that_is_not_unicode_is_repaired(body: bytes) -> None:
    assert bind(body, GenerateRequest).prompt == "a\N{REPLACEMENT CHARACTER}b"


def test_surrogate_pairs_are_one_character() -> None:
    assert bind(b'{"prompt": "\\ud83d\\ude00"} trailing', GenerateRequest).prompt == "\N{GRINNING FACE}"


def test_null_alone_is_an_empty_request() -> None:
    assert bind(b"null", ShowRequest) == ShowRequest()


def test_an_empty_body_is_refused() -> None:
    with pytest.raises(BadRequest, match="missing request body"):
        bind(b"", ChatRequest)


@pytest.mark.parametrize("body", [b"{", b'{"model": "m"', b'{"model": "m', b"["])
def test_a_body_that_ends_early_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"unexpected EOF|Unterminated"):
        bind(body, ChatRequest)


@pytest.mark.parametrize("body", [b"hello", b"{model: 1}", b"{'model': 'm'}", b'{"a": NaN}', b"\x00", b"{,}"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="invalid JSON"):
        bind(body, ChatRequest)


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"true"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="must be a JSON object"):
        bind(body, ChatRequest)


@pytest.mark.parametrize("opening", [b'{"a":', b"["])
def test_endless_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(BadRequest, match="nested too deeply"):
        bind(opening * 200_000, ChatRequest)


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(BadRequest):
        bind(b'{"context": [' + b"9" * 100_000 + b"]}", GenerateRequest)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model": 7}', "field 'model': expected string, got integer"),
        (b'{"stream": "yes"}', "field 'stream': expected boolean, got string"),
        (b'{"messages": "hi"}', "field 'messages': expected list, got string"),
        (b'{"messages": ["hi"]}', "field 'messages.0.': expected object, got string"),
        (b'{"messages": [{"content": ["hi"]}]}', r"field 'messages.0..content': expected string, got list"),
        (b'{"options": []}', "field 'options': expected object, got list"),
        (b'{"tools": {}}', "field 'tools': expected list, got object"),
        (b'{"top_logprobs": 1.5}', "field 'top_logprobs': expected integer, got number"),
    ],
)
def test_a_wrong_type_is_refused_naming_the_field(body: bytes, field: str) -> None:
    with pytest.raises(BadRequest, match=field):
        bind(body, ChatRequest)
