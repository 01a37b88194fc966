"""Whose template makes the prompt, and what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.daemon import Daemon
from tests.tiny import CHAT_TEMPLATE, write_tiny_gguf

USER = [{"role": "user", "content": "hello"}]


def rendered(daemon: Daemon, path: str, **fields: Any) -> str:
    answer = daemon.post(path, **{"_debug_render_only": True} | fields).json()
    assert answer["done"] is False
    return str(answer["_debug_info"]["rendered_template"])


def test_template_that_create_made_stands_back_for_the_checkpoints_own(daemon: Daemon, tmp_path: Path) -> None:
    greeting = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nAct kindly<|im_end|>\n' }}{% endif %}"
    gguf = write_tiny_gguf(tmp_path / "kind.gguf", extra={"tokenizer.chat_template": greeting + CHAT_TEMPLATE})
    made = daemon.create("kind", gguf)
    assert any("autodetected template chatml" in line["status"] for line in made)
    assert "TEMPLATE" in daemon.post("/api/show", model="kind").json()["modelfile"]
    text = rendered(daemon, "/api/chat", model="kind", messages=USER)
    daemon.delete("kind")
    assert text.startswith("<|im_start|>system\nAct kindly<|im_end|>\n<|im_start|>user\n")


def test_template_of_a_modelfile_goes_before_the_checkpoints_own(daemon: Daemon) -> None:
    made = daemon.post("/api/create", model="own", stream=False, template="<{{ .Prompt }}>", **{"from": "tiny"})
    assert made.json() == {"status": "success"}
    text = rendered(daemon, "/api/chat", model="own", messages=[{"role": "user", "content": "hi"}])
    daemon.delete("own")
    assert text == "<hi>"


def test_model_that_names_a_renderer_is_prompted_by_the_checkpoints_own_template(daemon: Daemon) -> None:
    fields = {"template": "{{ .Prompt }}", "renderer": "qwen3-coder", "from": "tiny"}
    assert daemon.post("/api/create", model="drawn", stream=False, **fields).json() == {"status": "success"}
    text = rendered(daemon, "/api/chat", model="drawn", messages=[{"role": "user", "content": "hi"}])
    daemon.delete("drawn")
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_tools_reach_the_checkpoints_own_template(daemon: Daemon, tmp_path: Path) -> None:
    jinja = (
        "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>"
        "{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>{% endfor %}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    daemon.create("handy", write_tiny_gguf(tmp_path / "handy.gguf", extra={"tokenizer.chat_template": jinja}))
    assert daemon.post("/api/show", model="handy").json()["capabilities"] == ["completion", "tools", "thinking"]
    call = {"function": {"name": "f", "arguments": {"a": "b"}}}
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "c"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    text = rendered(daemon, "/api/chat", model="handy", messages=messages, tools=tools, think=False)
    daemon.delete("handy")
    assert text == (
        '<tools>{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}'
        '</tools><user>hello<assistant><tool_call>f {"a": "b"}</tool_call><tool>c<think></think>'
    )
