from __future__ import annotations

import msgspec

from hearthd.api import wire


def fields(payload: msgspec.Struct) -> set[str]:
    return set(msgspec.json.decode(msgspec.json.encode(payload)))


def test_a_chunk_has_every_field_that_clients_need() -> None:
    assert msgspec.json.encode(wire.GenerateChunk("m", "t", "", False)) == (
        b'{"model":"m","created_at":"t","response":"","done":false}'
    )
    assert msgspec.json.encode(wire.ChatChunk("m", "t", wire.Message("assistant", ""), False)) == (
        b'{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done":false}'
    )


def test_empty_counts_are_left_out_of_the_last_object() -> None:
    last = wire.GenerateResponse(model="m", created_at="t", response="", done=True)
    assert fields(last) == {"model", "created_at", "response", "done"}


def test_counts_and_context_are_in_the_last_object() -> None:
    last = wire.GenerateResponse(
        model="m", created_at="t", response="", done=True, done_reason="stop", context=[1], eval_count=2
    )
    assert fields(last) == {"model", "created_at", "response", "done", "done_reason", "context", "eval_count"}


def test_model_info_is_always_there() -> None:
    details = wire.ModelDetails(
        parent_model="", format="", family="", families=[], parameter_size="", quantization_level=""
    )
    shown = wire.ShowResponse(details=details, model_info={}, modified_at="t")
    assert fields(shown) == {"details", "model_info", "modified_at"}
    assert fields(details) == {
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
    }


def test_an_empty_list_of_models_is_a_list() -> None:
    assert msgspec.json.encode(wire.ListResponse(models=[])) == b'{"models":[]}'


def test_progress_leaves_out_what_is_not_known() -> None:
    assert msgspec.json.encode(wire.ProgressResponse(status="success")) == b'{"status":"success"}'


def test_rendered_prompts_have_their_own_field() -> None:
    info = wire.DebugInfo(rendered_template="p")
    last = wire.GenerateResponse(model="m", created_at="t", response="", done=False, debug_info=info)
    assert fields(last) == {"model", "created_at", "response", "done", "_debug_info"}
