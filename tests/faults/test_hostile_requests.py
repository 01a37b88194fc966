"""Requests that mean harm, or are wrong in ways a client may well be: the answer is a sentence, the runner goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import Daemon, running

USER = [{"role": "user", "content": "hi"}]
GENERATE = {"model": "tiny", "prompt": "hi", "stream": False, "options": {"num_predict": 2}}
CHAT = {"model": "tiny", "messages": USER, "stream": False, "options": {"num_predict": 2}}
DEEP = 2000


@pytest.fixture(scope="module")
def daemon(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("hostile"), HEARTH_CONTEXT_LENGTH="2048") as daemon:
        daemon.create("tiny", tiny_gguf)
        assert daemon.post("/api/generate", **GENERATE).status_code == 200
        yield daemon


@pytest.fixture(autouse=True)
def _same_runner_answers_afterwards(daemon: Daemon) -> Iterator[None]:
    before = daemon.runner_pids()
    yield
    assert daemon.post("/api/generate", **GENERATE).json()["done"] is True
    assert daemon.runner_pids() == before
    assert "Traceback" not in daemon.log


def error(response: httpx.Response) -> str:
    body = response.json()
    assert list(body) == ["error"], body
    assert "Traceback" not in body["error"]
    return str(body["error"])


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("temperature", "hot", "float32"),
        ("top_k", "40", "integer"),
        ("top_k", True, "integer"),
        ("mirostat", [], "integer"),
        ("tfs_z", {}, "float32"),
        ("penalize_newline", 1, "boolean"),
        ("use_mlock", "yes", "boolean"),
        ("stop", "text", "array"),
        ("stop", [1], "an array of strings"),
    ],
)
def test_option_of_a_wrong_type_is_refused_naming_it(daemon: Daemon, option: str, value: Any, kind: str) -> None:
    response = daemon.post("/api/generate", **GENERATE | {"options": {option: value}})
    assert (response.status_code, error(response)) == (500, f'option "{option}" must be of type {kind}'.replace(
        "must be of type an array", "must be of an array"
    ))  # fmt: skip


@pytest.mark.parametrize("value", [-1, 0, -(2**63), 2**63 - 1, 1e300, -1e300, 1e-300])
@pytest.mark.parametrize(
    "option",
    ["temperature", "top_k", "top_p", "min_p", "tfs_z", "typical_p", "repeat_penalty", "repeat_last_n", "seed",
     "presence_penalty", "frequency_penalty", "mirostat_tau", "mirostat_eta", "num_keep"],
)  # fmt: skip
def test_sampling_value_out_of_range_still_gives_an_answer(daemon: Daemon, option: str, value: float) -> None:
    for mirostat in (0, 1, 2) if option.startswith("mirostat") else (0,):
        options = {"num_predict": 3, "mirostat": mirostat, option: value}
        response = daemon.post("/api/generate", **GENERATE | {"options": options})
        assert response.status_code == 200, response.text
        assert response.json()["done_reason"] in ("stop", "length")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_number_that_is_none_is_refused(daemon: Daemon, value: str) -> None:
    body = json.dumps(GENERATE | {"options": {"temperature": "VALUE"}}).replace('"VALUE"', value)
    response = daemon.http.post("/api/generate", content=body)
    assert response.status_code in (400, 500)
    assert error(response)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ .Prompt", "template: :1: unclosed action"),
        ("\n\n{{ if }}x{{ end }}", "template: :3: missing value for if"),
        ("a\n{{ end }}", "template: :2: unexpected {{end}}"),
        ("{{ nosuch .Prompt }}", 'template: :1: function "nosuch" not defined'),
        ("{{ $x }}", 'template: :1: undefined variable "$x"'),
        ("{{ range .Messages }}", "unexpected EOF"),
    ],
)
def test_broken_template_is_refused_with_the_line(daemon: Daemon, template: str, reason: str) -> None:
    response = daemon.post("/api/generate", **GENERATE | {"template": template})
    assert response.status_code == 500
    assert reason in error(response)


@pytest.mark.parametrize(
    "template",
    [
        '{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}{{ .Prompt }}',
        '{{ define "x" }}{{ template "x" . }}{{ template "x" . }}{{ end }}{{ template "x" . }}{{ .Prompt }}',
        "{{ range 1000000000 }}x{{ end }}{{ .Prompt }}",
        "{{ range 100000 }}{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}{{ end }}{{ .Prompt }}",
        '{{ printf "%999999999d" 1 }}{{ .Prompt }}',
        '{{ $x := "aaaaaaaa" }}{{ range 64 }}{{ $x = print $x $x }}{{ end }}{{ .Prompt }}',
        "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}{{ .Prompt }}",
        "{{ if true }}" * 20000 + "x" + "{{ end }}" * 20000 + "{{ .Prompt }}",
    ],
    ids=["recursive", "exponential", "long-range", "nested-ranges", "wide", "doubling", "parentheses", "nested-ifs"],
)
def test_template_that_does_too_much_is_refused(daemon: Daemon, template: str) -> None:
    response = daemon.post("/api/generate", **GENERATE | {"template": template})
    assert response.status_code in (400, 500)
    assert error(response)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": 7},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema.json"},
        {"type": "string", "pattern": "(unclosed"},
        {"type": "string", "pattern": "(?=look)ahead"},
        {"type": "object", "properties": 5},
        {"not": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        nested(200),
    ],
    ids=["unknown-type", "number-as-type", "dangling-ref", "remote-ref", "bad-pattern", "lookahead", "bad-properties",
         "not", "unique", "deep"],
)  # fmt: skip
def test_schema_that_cannot_be_kept_is_refused_before_anything_runs(daemon: Daemon, schema: dict[str, Any]) -> None:
    response = daemon.post("/api/chat", **CHAT | {"format": schema})
    assert response.status_code == 400, response.text
    assert error(response)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a|a)*b(.{1,1000}){1,1000}$"},
        {"type": "string", "pattern": "^((((a{1,100}){1,100}){1,100}){1,100})$"},
        {"type": "string", "pattern": "(x+x+)+y"},
        {"type": "string", "maxLength": 10**9, "minLength": 10**8},
        {"enum": [f"value-{n}" for n in range(20000)]},
        {"oneOf": [{"type": "object", "properties": {f"p{n}": {"type": "string"}}} for n in range(500)]},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"allOf": [{"anyOf": [{"minimum": n}, {"maximum": n}]} for n in range(24)]},
    ],
    ids=["alternatives", "towers", "plus", "long", "enum", "one-of", "loop", "product"],
)
def test_schema_that_explodes_is_answered_or_refused(daemon: Daemon, schema: dict[str, Any]) -> None:
    response = daemon.post("/api/chat", **CHAT | {"format": schema})
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert error(response)


@pytest.mark.parametrize("format", ["yaml", 5, True, ["json"], "JSON"])
def test_format_of_another_kind_is_refused(daemon: Daemon, format: Any) -> None:
    response = daemon.post("/api/generate", **GENERATE | {"format": format})
    assert response.status_code == 400
    assert "invalid format" in error(response)


def test_chat_of_100000_messages_is_cut_to_the_window(daemon: Daemon) -> None:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": f"message {n}"} for n in range(99_999)]
    response = daemon.post("/api/chat", **CHAT | {"messages": messages})
    assert response.status_code == 200, response.text
    assert response.json()["prompt_eval_count"] <= 2048


def test_chat_of_100000_messages_that_may_not_be_cut_is_refused(daemon: Daemon) -> None:
    response = daemon.post("/api/chat", **CHAT | {"messages": USER * 99_999, "truncate": False, "shift": False})
    assert response.status_code == 400
    assert error(response)


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb", "\\u0000", "a\\u0000b", "\\ud83d\\ude00"])
@pytest.mark.parametrize("field", ["prompt", "system", "template", "suffix", "content", "stop", "tool", "schema"])
def test_odd_characters_are_taken_as_text(daemon: Daemon, field: str, text: str) -> None:
    odd = json.loads(f'"{text}"')
    body: dict[str, Any] = GENERATE | ({field: odd} if field in ("prompt", "system") else {})
    path = "/api/generate"
    match field:
        case "template":
            body["template"] = odd + "{{ .Prompt }}"
        case "suffix":
            body |= {"template": "{{ .Prompt }}{{ .Suffix }}", "suffix": odd}
        case "stop":
            body["options"] = {"stop": [odd], "num_predict": 2}
        case "schema":
            body["format"] = {"type": "object", "properties": {odd: {"const": odd}}, "required": [odd]}
        case "content" | "tool":
            path, body = "/api/chat", CHAT | {"messages": [{"role": "user", "content": odd}]}
            if field == "tool":
                body["messages"] = [{"role": "tool", "tool_name": odd, "content": odd}, *USER]
    response = daemon.http.post(path, content=json.dumps(body))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(("image", "offset"), [("!!!!", 0), ("aGk", 0), ("aGVsbG8=x", 8), ("aGV$bG8=", 3), ("a", 0)])
def test_bad_base64_is_refused_with_its_offset(daemon: Daemon, image: str, offset: int) -> None:
    for path, body in (
        ("/api/generate", GENERATE | {"images": [image]}),
        ("/api/chat", CHAT | {"messages": [{"role": "user", "content": "x", "images": [image]}]}),
    ):
        response = daemon.post(path, **body)
        assert (response.status_code, error(response)) == (400, f"illegal base64 data at input byte {offset}")


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([{"type": "function", "function": {"name": 5}}], "tools[0]"),
        ([{"function": {"name": "f", "parameters": {"properties": {"x": 5}}}}], "tools[0]"),
        (["f"], "tools[0]"),
    ],
)
def test_tool_that_is_none_is_refused_naming_it(daemon: Daemon, tools: Any, reason: str) -> None:
    response = daemon.post("/api/chat", **CHAT | {"tools": tools})
    assert response.status_code == 400
    assert reason in error(response)


def test_body_that_is_nested_endlessly_is_refused(daemon: Daemon) -> None:
    for body in (
        '{"format": ' + "[" * 100_000,
        '{"model": "tiny", "format": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}",
    ):
        response = daemon.http.post("/api/generate", content=body)
        assert response.status_code == 400
        assert error(response)


@pytest.mark.parametrize("context", [[-1], [10**9], [2**31], [1.5]])
def test_context_of_no_tokens_is_refused(daemon: Daemon, context: list[Any]) -> None:
    response = daemon.post("/api/generate", **GENERATE | {"context": context})
    assert response.status_code == 400
    assert "context" in error(response)
