"""Tool calls, thoughts, forms and likelihoods, as the starter model really says them: it is shown a few exchanges."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import ollama
import pytest

from tests.e2e.daemon import Daemon, running

TEMPLATE = """{{- if .Tools }}<|im_start|>system
Tools: {{ .Tools }}
Call one with <tool_call>{"name": "...", "arguments": {}}</tool_call><|im_end|>
{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ if .ToolCalls }}<tool_call>
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end -}}
</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
GREEDY = {"temperature": 0, "num_predict": 60}
PARAMETERS = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "tells", "parameters": PARAMETERS}}
NUMBER = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def weather_talk() -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for city in ("Paris", "Oslo", "Rome"):
        call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
            {"role": "assistant", "content": "It is sunny."},
        ]
    return [*messages, {"role": "user", "content": "What is the weather in Berlin?"}]


def sums() -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for sum_, result in (("2+2", "4"), ("3+5", "8"), ("1+6", "7")):
        messages += [
            {"role": "user", "content": f"What is {sum_}?"},
            {"role": "assistant", "thinking": f"They ask for {sum_}.", "content": result},
        ]
    return [*messages, {"role": "user", "content": "What is 4+5?"}]


@pytest.fixture(scope="module")
def daemon(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with `plain`, the starter model, and `able`, which can call tools and think."""
    with running(tmp_path_factory.mktemp("able")) as daemon:
        daemon.create("plain", smollm2_gguf)
        made = daemon.post("/api/create", model="able", stream=False, template=TEMPLATE, **{"from": "plain"})
        assert made.json() == {"status": "success"}
        yield daemon


def chat(daemon: Daemon, **fields: Any) -> dict[str, Any]:
    response = daemon.post("/api/chat", **{"model": "able", "stream": False, "options": GREEDY} | fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def lines(daemon: Daemon, **fields: Any) -> list[dict[str, Any]]:
    return daemon.lines("/api/chat", **{"model": "able", "options": GREEDY} | fields)


def test_capabilities_follow_from_the_template(daemon: Daemon) -> None:
    shown = daemon.post("/api/show", model="able").json()
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert daemon.post("/api/show", model="plain").json()["capabilities"] == ["completion"]
    listed = {model["name"]: model["capabilities"] for model in daemon.http.get("/api/tags").json()["models"]}
    assert listed["able:latest"] == ["completion", "tools", "thinking"]
    assert listed["plain:latest"] == ["completion"]


# --- tools


def test_model_calls_a_tool(daemon: Daemon) -> None:
    message = chat(daemon, messages=weather_talk(), tools=[WEATHER], think=False)["message"]
    (call,) = message["tool_calls"]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Berlin"}}
    assert re.fullmatch("call_[a-z0-9]{8}", call["id"])
    assert message["content"] == ""


def test_streamed_call_is_a_line_of_its_own_before_the_last(daemon: Daemon) -> None:
    *some, call, last = lines(daemon, messages=weather_talk(), tools=[WEATHER], think=False)
    assert [line["message"].get("content") for line in some] == []
    assert call["message"]["tool_calls"][0]["function"]["arguments"] == {"city": "Berlin"}
    assert (call["done"], call["message"]["content"]) == (False, "")
    assert (last["done"], last["done_reason"], last["message"]) == (True, "stop", {"role": "assistant", "content": ""})


def test_call_of_a_tool_that_was_not_offered_is_text(daemon: Daemon) -> None:
    other = json.loads(json.dumps(WEATHER).replace("get_weather", "get_time"))
    message = chat(daemon, messages=weather_talk(), tools=[other], think=False)["message"]
    assert "tool_calls" not in message
    assert "get_weather" in message["content"]


def test_without_tools_in_the_request_a_call_is_text(daemon: Daemon) -> None:
    message = chat(daemon, messages=weather_talk(), think=False)["message"]
    assert message["content"].startswith('<tool_call>{"name": "get_weather"')


def test_official_client_calls_tools(daemon: Daemon) -> None:
    client = ollama.Client(host=daemon.url)
    with client._client:
        answer = client.chat("able", messages=weather_talk(), tools=[WEATHER], think=False, options=GREEDY)
    assert answer.message.tool_calls is not None
    assert answer.message.tool_calls[0].function.arguments == {"city": "Berlin"}


def test_form_of_a_call_may_be_enforced(daemon: Daemon) -> None:
    form = {
        "type": "object",
        "properties": {"name": {"const": "get_weather"}, "arguments": PARAMETERS | {"additionalProperties": False}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    bare = "{{ range .Messages }}{{ .Content }}{{ range .ToolCalls }}{{ . }}{{ end }}{{ end }}{{ .Tools }}"
    made = daemon.post("/api/create", model="bare", stream=False, template=bare, **{"from": "plain"})
    assert made.json() == {"status": "success"}
    messages = [{"role": "user", "content": "Weather in Lima?"}]
    message = chat(daemon, model="bare", messages=messages, tools=[WEATHER], format=form)["message"]
    (call,) = message["tool_calls"]
    jsonschema.validate(call["function"]["arguments"], PARAMETERS)


# --- thinking


def test_thoughts_come_apart_from_the_answer(daemon: Daemon) -> None:
    message = chat(daemon, messages=sums(), think=True)["message"]
    assert (message["thinking"], message["content"]) == ("They ask for 4+5.", "9")


def test_model_that_can_think_does_unless_told_not_to(daemon: Daemon) -> None:
    assert chat(daemon, messages=sums())["message"]["thinking"] == "They ask for 4+5."
    unsplit = chat(daemon, messages=sums(), think=False)["message"]
    assert (unsplit["content"], "thinking" in unsplit) == ("<think>They ask for 4+5.</think>9", False)


def test_streamed_thoughts_precede_the_streamed_answer(daemon: Daemon) -> None:
    got = [line["message"] for line in lines(daemon, messages=sums(), think="high")]
    kinds = ["thinking" if message.get("thinking") else "content" for message in got[:-1]]
    assert kinds == sorted(kinds, reverse=True)
    assert "".join(message.get("thinking", "") for message in got) == "They ask for 4+5."
    assert "".join(message["content"] for message in got) == "9"


def test_generate_thinks_too(daemon: Daemon) -> None:
    answer = daemon.post(
        "/api/generate", model="able", prompt="x", think=True, stream=False, options=GREEDY,
        template="{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}<think>",
    ).json()  # fmt: skip
    assert answer["thinking"]  # the prompt opens the thoughts


def test_thoughts_are_free_and_the_answer_keeps_its_form(daemon: Daemon) -> None:
    message = chat(daemon, messages=sums(), think=True, format=NUMBER)["message"]
    assert message["thinking"] == "They ask for 4+5."
    jsonschema.validate(json.loads(message["content"]), NUMBER)


# --- form


@pytest.mark.parametrize("stream", [True, False])
def test_answer_keeps_the_form_that_is_asked_for(daemon: Daemon, stream: bool) -> None:
    fields = {"model": "plain", "prompt": "How many legs has a spider?", "format": NUMBER, "options": {"seed": 1}}
    if stream:
        text = "".join(line["response"] for line in daemon.lines("/api/generate", **fields))
    else:
        answer = daemon.post("/api/generate", **fields, stream=False).json()
        assert answer["done_reason"] == "stop"
        text = answer["response"]
    jsonschema.validate(json.loads(text), NUMBER)


def test_format_json_gives_an_object(daemon: Daemon) -> None:
    options = {"seed": 3, "num_predict": 120, "temperature": 0.5}
    answer = chat(
        daemon, model="plain", messages=[{"role": "user", "content": "A cat as JSON"}], format="json", options=options
    )
    text = answer["message"]["content"]
    assert text.startswith("{")
    if answer["done_reason"] == "stop":
        assert isinstance(json.loads(text), dict)


def test_answer_that_is_cut_says_length(daemon: Daemon) -> None:
    messages = [{"role": "user", "content": "x"}]
    answer = chat(daemon, model="plain", messages=messages, format=NUMBER, options={"num_predict": 3})
    assert answer["done_reason"] == "length"


def test_form_that_cannot_be_kept_is_refused_before_the_model_is_loaded(daemon: Daemon) -> None:
    daemon.post("/api/generate", model="plain", keep_alive=0)
    daemon.post("/api/generate", model="able", keep_alive=0)
    response = daemon.post("/api/chat", model="plain", messages=[{"role": "user"}], format={"type": "thing"})
    assert response.status_code == 400
    assert "thing" in response.json()["error"]
    assert daemon.loaded() == []


# --- likelihoods


def test_likelihoods_come_with_every_token(daemon: Daemon) -> None:
    options = {"num_predict": 6, "seed": 5}
    answer = daemon.post(
        "/api/generate", model="plain", prompt="Hi", stream=False, options=options, logprobs=True, top_logprobs=3
    ).json()
    logprobs = answer["logprobs"]
    assert "".join(entry["token"] for entry in logprobs[: answer["eval_count"]]).startswith(answer["response"][:1])
    for entry in logprobs:
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
        assert entry["logprob"] <= 0
        top = [other["logprob"] for other in entry["top_logprobs"]]
        assert (len(top), top) == (3, sorted(top, reverse=True))
        assert sum(map(math.exp, top)) <= 1 + 1e-6
        assert entry["logprob"] <= top[0]


def test_streamed_likelihoods_are_those_of_the_whole_answer(daemon: Daemon) -> None:
    fields: dict[str, Any] = {
        "model": "able", "messages": sums(), "options": GREEDY, "logprobs": True, "top_logprobs": 0
    }  # fmt: skip
    whole = chat(daemon, **fields)["logprobs"]
    streamed = [entry for line in lines(daemon, **fields) for entry in line.get("logprobs", [])]
    assert streamed == whole
    assert "top_logprobs" not in whole[0]


def test_without_asking_there_are_no_likelihoods(daemon: Daemon) -> None:
    assert "logprobs" not in chat(daemon, messages=sums(), top_logprobs=5)


# --- insertion and templates


def test_suffix_goes_where_the_template_puts_it(daemon: Daemon) -> None:
    fill = "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}"
    made = daemon.post("/api/create", model="filler", stream=False, template=fill, **{"from": "plain"})
    assert made.json() == {"status": "success"}
    assert "insert" in daemon.post("/api/show", model="filler").json()["capabilities"]
    fields: dict[str, Any] = {"model": "filler", "prompt": "a", "stream": False, "_debug_render_only": True}
    rendered = daemon.post("/api/generate", **fields, suffix="b").json()["_debug_info"]["rendered_template"]
    assert rendered == "<PRE>a<SUF>b<MID>"
    assert daemon.post("/api/generate", **fields).json()["_debug_info"]["rendered_template"] == "a"


def test_template_of_the_request_takes_the_place_of_the_models(daemon: Daemon) -> None:
    fields: dict[str, Any] = {"model": "plain", "prompt": "a", "system": "s", "stream": False}
    answer = daemon.post(
        "/api/generate", **fields, template="[{{ .System }}|{{ .Prompt }}]", _debug_render_only=True
    ).json()
    assert answer["_debug_info"] == {"rendered_template": "[s|a]"}
