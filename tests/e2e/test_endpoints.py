"""The HTTP surface, spoken to as clients do."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from hearthd import __version__
from tests.e2e.daemon import Daemon, eventually
from tests.hearth_export.gguf_writer import Meta
from tests.tiny import write_tiny_gguf

SHORT = {"num_predict": 4, "temperature": 0}
USER = [{"role": "user", "content": "hello"}]
NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"


def error_of(response: httpx.Response) -> str:
    assert response.headers["content-type"] == JSON
    body = response.json()
    assert list(body) == ["error"]
    return str(body["error"])


# --- the server -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_says_that_a_server_is_there(daemon: Daemon, method: str) -> None:
    response = daemon.http.request(method, "/")
    assert (response.status_code, response.headers["content-length"]) == (200, "17")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == ("Ollama is running" if method == "GET" else "")


@pytest.mark.parametrize("path", ["/api/version", "/api/tags"])
def test_head_has_no_body(daemon: Daemon, path: str) -> None:
    response = daemon.http.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_version_is_that_of_the_package(daemon: Daemon) -> None:
    assert daemon.http.get("/api/version").json() == {"version": __version__}


def test_status_says_that_remote_models_are_off(daemon: Daemon) -> None:
    assert daemon.http.get("/api/status").json()["cloud"]["disabled"] is True


@pytest.mark.parametrize("path", ["/nope", "/api", "/api/", "/api/tags/x", "/api/blobs", "/api/blobs/a/b", "//"])
def test_an_unknown_path_is_not_found(daemon: Daemon, path: str) -> None:
    response = daemon.http.get(daemon.url + path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/chat"), ("POST", "/api/tags"), ("PUT", "/api/blobs/x")])
def test_a_known_path_with_another_method_is_not_allowed(daemon: Daemon, method: str, path: str) -> None:
    response = daemon.http.request(method, path)
    assert (response.status_code, response.text) == (405, "405 method not allowed")


# --- who may call ---------------------------------------------------------------------------------


def test_a_foreign_host_is_refused_without_a_body(daemon: Daemon) -> None:
    response = daemon.http.get("/api/tags", headers={"Host": "evil.example.com"})
    assert (response.status_code, response.content) == (403, b"")


def test_a_foreign_origin_is_refused(daemon: Daemon) -> None:
    response = daemon.http.get("/api/tags", headers={"Origin": "https://evil.example.com"})
    assert (response.status_code, response.content) == (403, b"")


def test_a_local_origin_is_named_in_the_answer(daemon: Daemon) -> None:
    response = daemon.http.get("/api/tags", headers={"Origin": "http://localhost:3000"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_a_preflight_lists_methods_and_headers(daemon: Daemon) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    response = daemon.http.options("/api/chat", headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    assert "DELETE" in response.headers["access-control-allow-methods"]
    assert "x-stainless-os" in response.headers["access-control-allow-headers"]
    assert response.headers["access-control-max-age"] == "43200"


def test_options_without_an_origin_is_answered(daemon: Daemon) -> None:
    assert daemon.http.options("/api/chat").status_code == 204


# --- generate and chat ----------------------------------------------------------------------------


def test_chat_streams_lines_and_ends_with_counts(daemon: Daemon) -> None:
    with daemon.http.stream("POST", "/api/chat", json={"model": "tiny", "messages": USER, "options": SHORT}) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON)
        raw = answer.read()
    assert raw.endswith(b"\n")
    lines = [json.loads(line) for line in raw[:-1].split(b"\n")]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert all(line["model"] == "tiny" and line["message"]["role"] == "assistant" for line in lines)
    last = lines[-1]
    assert (last["message"]["content"], last["done_reason"], last["eval_count"]) == ("", "length", 4)
    for count in ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_duration"):
        assert last[count] > 0


def test_an_answer_in_one_piece_is_the_stream_put_together(daemon: Daemon) -> None:
    asked = {"model": "tiny", "messages": USER, "options": SHORT}
    streamed = "".join(line["message"]["content"] for line in daemon.lines("/api/chat", **asked))
    response = daemon.post("/api/chat", **asked, stream=False)
    assert response.headers["content-type"] == JSON
    assert response.json()["message"]["content"] == streamed != ""


def test_generate_in_one_piece_is_the_stream_put_together(daemon: Daemon) -> None:
    asked = {"model": "tiny", "prompt": "hello", "options": SHORT}
    lines = daemon.lines("/api/generate", **asked)
    whole = daemon.post("/api/generate", **asked, stream=False).json()
    assert whole["response"] == "".join(line["response"] for line in lines) != ""
    assert whole["context"] == lines[-1]["context"]
    assert len(whole["context"]) == whole["prompt_eval_count"] + whole["eval_count"]


def test_times_are_utc_and_in_order(daemon: Daemon) -> None:
    lines = daemon.lines("/api/generate", model="tiny", prompt="hello", options=SHORT)
    times = [line["created_at"] for line in lines]
    assert all(re.fullmatch(r"[\d-]{10}T[\d:]{8}(\.\d{1,9})?Z", text) for text in times)


def test_the_same_seed_gives_the_same_text(daemon: Daemon) -> None:
    def text(seed: int) -> str:
        options = {"num_predict": 12, "seed": seed, "temperature": 50.0, "top_k": 0, "top_p": 1.0}
        answer = daemon.post("/api/generate", model="tiny", prompt="hello", stream=False, options=options)
        return str(answer.json()["response"])

    assert text(1) == text(1) != text(2)


def test_a_stop_string_ends_the_text_before_it(daemon: Daemon) -> None:
    options = {"num_predict": 12, "temperature": 0}
    asked = {"model": "tiny", "prompt": "hello", "stream": False}
    text = daemon.post("/api/generate", **asked, options=options).json()["response"]
    stop = text[4:6]
    answer = daemon.post("/api/generate", **asked, options=options | {"stop": [stop]}).json()
    assert answer["response"] == text[: text.index(stop)]
    assert answer["done_reason"] == "stop"


def rendered(daemon: Daemon, path: str, **fields: Any) -> str:
    answer = daemon.post(path, **{"model": "tiny", "_debug_render_only": True} | fields).json()
    assert answer["done"] is False
    return str(answer["_debug_info"]["rendered_template"])


def test_generate_renders_system_and_prompt(daemon: Daemon) -> None:
    assert rendered(daemon, "/api/generate", prompt="hi", system="be brief") == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_raw_prompt_is_taken_verbatim(daemon: Daemon) -> None:
    assert rendered(daemon, "/api/generate", prompt="hi", raw=True) == "hi"
    answer = daemon.post("/api/generate", model="tiny", prompt="hi", raw=True, stream=False, options=SHORT).json()
    assert "context" not in answer


def test_roles_are_taken_in_any_case(daemon: Daemon) -> None:
    text = rendered(daemon, "/api/chat", messages=[{"role": "USER", "content": "hi"}])
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_long_conversation_loses_its_oldest_messages(daemon: Daemon) -> None:
    system = {"role": "system", "content": "be brief"}
    messages = [system] + [{"role": "user", "content": f"{i} " + "word " * 60} for i in range(40)]
    text = rendered(daemon, "/api/chat", messages=messages)
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n")
    first = int(text.split("user\n")[1].split()[0])
    assert 0 < first < 39
    assert [int(n) for n in re.findall(r"(\d+) word", text)] == list(range(first, 40))


def test_a_context_continues_where_it_ended(daemon: Daemon) -> None:
    first = daemon.post("/api/generate", model="tiny", prompt="hello", stream=False, options=SHORT).json()
    again = daemon.post(
        "/api/generate", model="tiny", prompt="more", stream=False, options=SHORT, context=first["context"]
    ).json()
    assert again["context"][: len(first["context"])] == first["context"]


@pytest.mark.parametrize(("adds_bos", "expected"), [(False, "<|im_start|>hello<|im_end|>"), (True, "hello<|im_end|>")])
def test_a_template_may_name_the_special_tokens(daemon: Daemon, tmp_path: Path, adds_bos: bool, expected: str) -> None:
    template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    extra: dict[str, Meta] = {"tokenizer.chat_template": template, "tokenizer.ggml.add_bos_token": adds_bos}
    daemon.create("special", write_tiny_gguf(tmp_path / "special.gguf", extra=extra))
    answer = daemon.post("/api/chat", model="special", messages=USER, keep_alive=0, _debug_render_only=True).json()
    assert answer["_debug_info"]["rendered_template"] == expected
    daemon.delete("special")


def test_a_template_that_refuses_the_conversation_is_told_in_its_words(daemon: Daemon, tmp_path: Path) -> None:
    extra: dict[str, Meta] = {"tokenizer.chat_template": "{{ raise_exception('only one message, please') }}"}
    daemon.create("strict", write_tiny_gguf(tmp_path / "strict.gguf", extra=extra))
    response = daemon.post("/api/chat", model="strict", messages=USER, keep_alive=0)
    assert (response.status_code, error_of(response)) == (400, "chat template: only one message, please")
    daemon.delete("strict")


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_without_a_prompt_the_model_is_loaded_and_unloaded(daemon: Daemon, path: str) -> None:
    load = daemon.post(path, model="tiny", keep_alive="10m")
    assert load.headers["content-type"] == JSON
    assert (load.json()["done"], load.json()["done_reason"]) == (True, "load")
    assert "eval_count" not in load.json()
    assert [entry["name"] for entry in daemon.loaded()] == ["tiny:latest"]
    unload = daemon.post(path, model="tiny", keep_alive=0)
    assert (unload.status_code, unload.json()["done_reason"]) == (200, "unload")
    eventually(lambda: not daemon.loaded() and not daemon.runner_pids(), "the runner is gone")


def test_a_model_leaves_when_its_time_is_over(daemon: Daemon) -> None:
    daemon.post("/api/generate", model="tiny", keep_alive="50ms")
    eventually(lambda: not daemon.loaded() and not daemon.runner_pids(), "the runner is gone")


def test_a_loaded_model_is_listed_with_its_expiry(daemon: Daemon) -> None:
    daemon.post("/api/generate", model="tiny", keep_alive=-1)
    (entry,) = daemon.loaded()
    assert datetime.fromisoformat(entry["expires_at"].replace("Z", "+00:00")).year > 2200
    assert entry["size"] > 0
    assert entry["context_length"] == 4096
    daemon.post("/api/generate", model="tiny", keep_alive="5m")
    assert datetime.fromisoformat(daemon.loaded()[0]["expires_at"].replace("Z", "+00:00")).year < 2200


# --- requests at fault ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "status", "sentence"),
    [
        ("generate", {}, 404, "model '' not found"),
        ("chat", {}, 400, "model is required"),
        ("generate", {"model": "x:"}, 400, "invalid model name"),
        ("chat", {"model": "../../etc/passwd", "messages": USER}, 400, "invalid model name"),
        ("generate", {"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
        ("chat", {"model": "nope:1b", "messages": USER}, 404, "model 'nope:1b' not found"),
        ("generate", {"name": "nope", "model": "", "prompt": "x"}, 404, "model 'nope' not found"),
        ("chat", {"model": "big:cloud", "messages": USER}, 403, "ollama cloud is disabled"),
        ("generate", {"model": "tiny", "prompt": "x", "top_logprobs": 21}, 400, "must be between 0 and 20"),
        ("generate", {"model": "tiny", "prompt": "x", "raw": True, "system": "s"}, 400, "raw mode does not support"),
        ("generate", {"model": "tiny", "prompt": "x", "think": True}, 400, '"tiny" does not support thinking'),
        ("chat", {"model": "tiny", "messages": USER, "think": "high"}, 400, '"tiny" does not support thinking'),
        (
            "generate",
            {"model": "tiny", "prompt": "x", "suffix": "y"},
            400,
            "library/tiny:latest does not support insert",
        ),
        ("chat", {"model": "tiny", "messages": USER, "tools": [{}]}, 400, "library/tiny:latest does not support tools"),
        ("generate", {"model": "tiny", "prompt": "x", "format": "yaml"}, 400, 'invalid format: "yaml"'),
        ("chat", {"model": "tiny", "messages": USER, "format": {"type": "thing"}}, 400, "thing"),
        ("generate", {"model": "tiny", "prompt": "x", "template": "{{ .Prompt"}, 500, "template: :1: unclosed action"),
        ("generate", {"model": "tiny", "prompt": "x", "images": ["aGk="]}, 400, "images"),
        ("chat", {"model": "tiny", "messages": [{"role": "user", "images": ["aGk="]}]}, 400, "images"),
        ("chat", {"model": "tiny", "messages": USER, "think": "much"}, 400, 'invalid think value: "much"'),
        ("generate", {"model": "tiny", "prompt": "x", "keep_alive": "-1"}, 400, "missing unit in duration"),
        ("generate", {"model": "tiny", "prompt": "x", "keep_alive": "soon"}, 400, "invalid duration"),
        ("generate", {"model": "tiny", "prompt": "x", "keep_alive": True}, 400, "Unsupported type: 'bool'"),
        ("generate", {"model": "tiny", "prompt": "x", "keep_alive": [1]}, 400, "Unsupported type: 'list'"),
        ("generate", {"model": "tiny", "prompt": "x", "context": [-1]}, 400, "no token id"),
        ("generate", {"model": "tiny", "prompt": "x", "context": [1 << 40]}, 400, "no token id"),
        ("generate", {"model": "tiny", "prompt": "x", "options": {"temperature": "hot"}}, 500, 'option "temperature"'),
        ("chat", {"model": "tiny", "messages": USER, "options": {"stop": "x"}}, 500, 'option "stop" must be of type'),
        ("show", {}, 400, "model is required"),
        ("show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
        ("show", {"model": "a b"}, 400, "invalid model name"),
        ("copy", {"source": "a b", "destination": "c"}, 400, 'source "a b" is invalid'),
        ("copy", {"source": "tiny", "destination": ""}, 400, 'destination "" is invalid'),
        ("copy", {"source": "nope", "destination": "c"}, 404, 'model "nope" not found'),
        ("create", {}, 400, "invalid model name"),
        ("create", {"model": "new"}, 400, "neither 'from' or 'files' was specified"),
        ("create", {"model": "new", "modelfile": "SYSTEM hi"}, 400, "no FROM line"),
        ("create", {"model": "new", "modelfile": "FROM tiny\nBREAK it"}, 400, "command must be one of"),
        ("create", {"model": "new", "path": "/does/not/exist"}, 400, "error reading modelfile"),
        ("create", {"model": "new", "from": "nope:cloud"}, 403, "remote model is unavailable"),
        ("create", {"model": "new", "files": {"/abs.gguf": "sha256:" + "0" * 64}}, 400, "file path must be relative"),
        ("create", {"model": "new", "files": {"a.gguf": "nope"}}, 400, "invalid digest format"),
        ("create", {"model": "new", "from": "tiny", "quantize": "q4_K_M"}, 400, "quantization is only supported"),
        ("create", {"model": "new", "from": "tiny", "draft_files": {"x": "y"}}, 400, "draft models"),
        ("create", {"model": "new", "from": "tiny", "remote_host": "x"}, 400, "remote_host"),
        ("create", {"model": "new", "from": "tiny", "info": {"context_length": "x"}}, 400, "must be a number"),
        ("create", {"model": "new", "from": "tiny", "requires": "soon"}, 400, "requires must be a valid semver"),
        ("create", {"model": "new", "from": "tiny", "parameters": {"nope": 1}}, 400, "unknown parameter 'nope'"),
    ],
)
def test_a_request_at_fault_is_told_what_is_wrong(
    daemon: Daemon, path: str, fields: dict[str, Any], status: int, sentence: str
) -> None:
    response = daemon.post(f"/api/{path}", **fields)
    assert (response.status_code, sentence in error_of(response)) == (status, True), response.text


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({}, 400, "model is required"),
        ({"model": "a b"}, 400, 'name "a b" is invalid'),
        ({"name": "nope"}, 404, "model 'nope' not found"),
    ],
)
def test_a_delete_at_fault_is_told_what_is_wrong(
    daemon: Daemon, fields: dict[str, Any], status: int, sentence: str
) -> None:
    response = daemon.http.request("DELETE", "/api/delete", json=fields)
    assert (response.status_code, error_of(response)) == (status, sentence)


# --- models ---------------------------------------------------------------------------------------


def test_tags_list_the_model_with_its_details(daemon: Daemon) -> None:
    (entry,) = [model for model in daemon.http.get("/api/tags").json()["models"] if model["name"] == "tiny:latest"]
    assert entry["model"] == "tiny:latest"
    assert re.fullmatch(r"[0-9a-f]{64}", entry["digest"])
    assert entry["details"]["family"] == "llama"
    assert entry["details"]["format"] == "gguf"
    assert entry["capabilities"] == ["completion"]
    assert datetime.fromisoformat(entry["modified_at"].replace("Z", "+00:00")).tzinfo is not None


def test_show_tells_all_that_a_modelfile_set(daemon: Daemon) -> None:
    modelfile = (
        "FROM tiny\nSYSTEM be brief\nPARAMETER temperature 0.5\nPARAMETER stop a\nPARAMETER stop b\n"
        'LICENSE MIT\nMESSAGE user hi\nMESSAGE assistant yes\nTEMPLATE """{{ .Prompt }}!"""\n'
    )
    assert daemon.lines("/api/create", model="shown", modelfile=modelfile)[-1] == {"status": "success"}
    shown = daemon.post("/api/show", model="shown").json()
    assert (shown["system"], shown["license"], shown["template"]) == ("be brief", "MIT", "{{ .Prompt }}!")
    assert shown["messages"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert sorted(shown["parameters"].split("\n")) == [
        'stop                           "a"',
        'stop                           "b"',
        "temperature                    0.5",
    ]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.block_count"] == 2
    assert "tokenizer.chat_template" not in shown["model_info"]
    assert {"name": "output_norm.weight", "type": "F32", "shape": [64]} in shown["tensors"]
    assert daemon.http.request("DELETE", "/api/delete", json={"model": "shown"}).status_code == 200


def test_a_shown_modelfile_makes_the_same_model_again(daemon: Daemon) -> None:
    modelfile = 'FROM tiny\nSYSTEM """two\nlines"""\nPARAMETER num_ctx 128\nMESSAGE user hi\nLICENSE MIT\n'
    daemon.lines("/api/create", model="first", modelfile=modelfile)
    first = daemon.post("/api/show", model="first").json()
    assert "\nTEMPLATE " in first["modelfile"]  # known by what the checkpoint's own writes
    assert daemon.lines("/api/create", model="second", modelfile=first["modelfile"])[-1] == {"status": "success"}
    second = daemon.post("/api/show", model="second").json()
    for field in ("system", "parameters", "messages", "license", "template", "details"):
        assert first[field] == second[field]
    for name in ("first", "second"):
        daemon.delete(name)


def test_show_replaces_the_system_text_where_asked(daemon: Daemon) -> None:
    assert daemon.post("/api/show", model="tiny", system="other").json()["system"] == "other"


def test_show_shortens_long_lists_unless_verbose(daemon: Daemon) -> None:
    brief = daemon.post("/api/show", model="tiny").json()["model_info"]
    full = daemon.post("/api/show", model="tiny", verbose=True).json()["model_info"]
    assert "tokenizer.ggml.tokens" in brief
    assert len(full["tokenizer.ggml.tokens"]) == 265


def test_the_models_own_settings_are_used(daemon: Daemon) -> None:
    fields: dict[str, Any] = {
        "from": "tiny",
        "system": "be brief",
        "parameters": {"num_predict": 3, "temperature": 0},
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    }
    daemon.lines("/api/create", model="own", **fields)
    answer = daemon.post("/api/chat", model="own", messages=USER, stream=False).json()
    assert answer["eval_count"] == 3
    asked = daemon.post("/api/chat", model="own", messages=USER, _debug_render_only=True).json()
    assert asked["_debug_info"]["rendered_template"] == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    system = [{"role": "system", "content": "mine"}]
    asked = daemon.post("/api/chat", model="own", messages=system + USER, _debug_render_only=True).json()
    assert "be brief" not in asked["_debug_info"]["rendered_template"]
    daemon.delete("own")


def test_copy_and_delete_answer_without_a_body(daemon: Daemon) -> None:
    copied = daemon.post("/api/copy", source="tiny", destination="twin")
    assert (copied.status_code, copied.content) == (200, b"")
    names = {model["name"] for model in daemon.http.get("/api/tags").json()["models"]}
    assert {"tiny:latest", "twin:latest"} <= names
    deleted = daemon.http.request("DELETE", "/api/delete", json={"name": "twin"})
    assert (deleted.status_code, deleted.content) == (200, b"")
    assert daemon.post("/api/generate", model="tiny", prompt="x", options=SHORT, stream=False).status_code == 200


def test_names_are_found_in_any_case(daemon: Daemon) -> None:
    assert daemon.post("/api/show", model="TINY:Latest").status_code == 200


# --- blobs and create -----------------------------------------------------------------------------


def test_an_uploaded_file_becomes_a_model(daemon: Daemon, tiny_gguf: Path) -> None:
    data = tiny_gguf.read_bytes() + b"\0"  # another digest than the model that is here
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert daemon.http.head(f"/api/blobs/{digest}").status_code == 404
    created = daemon.http.post(f"/api/blobs/{digest}", content=iter([data[:1000], data[1000:]]))
    assert (created.status_code, created.content) == (201, b"")
    assert daemon.http.post(f"/api/blobs/{digest}", content=data).status_code == 200
    assert daemon.http.head(f"/api/blobs/{digest}").status_code == 200
    assert daemon.http.get(f"/api/blobs/{digest}").status_code == 200
    lines = daemon.lines("/api/create", model="uploaded", files={"model.gguf": digest})
    assert lines[-1] == {"status": "success"}
    assert any(line["status"].startswith("converting to ONNX") for line in lines)
    answer = daemon.post("/api/generate", model="uploaded", prompt="hi", stream=False, options=SHORT).json()
    assert answer["eval_count"] == 4
    daemon.delete("uploaded")


def test_an_upload_that_is_not_what_it_claims_is_refused(daemon: Daemon) -> None:
    want = "sha256:" + "0" * 64
    got = "sha256:" + hashlib.sha256(b"other").hexdigest()
    response = daemon.http.post(f"/api/blobs/{want}", content=b"other")
    assert (response.status_code, error_of(response)) == (400, f'digest mismatch, expected "{want}", got "{got}"')
    assert daemon.http.head(f"/api/blobs/{want}").status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_bad_digest_is_refused(daemon: Daemon, method: str) -> None:
    assert daemon.http.request(method, "/api/blobs/sha256:xyz").status_code == 400


def test_create_in_one_piece_answers_the_last_line(daemon: Daemon) -> None:
    response = daemon.post("/api/create", model="quiet", **{"from": "tiny"}, stream=False)
    assert (response.status_code, response.json()) == (200, {"status": "success"})
    assert response.headers["content-type"] == "application/json"
    daemon.delete("quiet")


def test_a_file_that_is_no_checkpoint_is_refused_and_leaves_nothing(daemon: Daemon, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 100)
    before = daemon.http.get("/api/tags").json()
    response = daemon.post("/api/create", model="bad", modelfile=f"FROM {bad}", stream=False)
    assert response.status_code == 400
    assert "bad.gguf" in error_of(response)
    assert daemon.http.get("/api/tags").json() == before
    assert "Traceback" not in response.text


def test_a_failing_conversion_ends_its_stream_with_an_error(daemon: Daemon, tmp_path: Path) -> None:
    odd = write_tiny_gguf(tmp_path / "odd.gguf", extra={"tokenizer.ggml.pre": "martian"})
    before = daemon.http.get("/api/tags").json()
    lines = daemon.lines("/api/create", model="odd", modelfile=f"FROM {odd}")
    assert len(lines) > 1
    assert list(lines[-1]) == ["error"]
    assert "martian" in lines[-1]["error"]
    assert daemon.http.get("/api/tags").json() == before
