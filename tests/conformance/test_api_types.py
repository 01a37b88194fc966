"""The published cases of request parsing, where they are at hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearthd.api.binding import bind
from hearthd.api.opening import keep_alive_ns
from hearthd.api.turns import read_think, read_tools
from hearthd.api.wire import ChatRequest, GenerateRequest, MessageInput
from hearthd.errors import BadRequest
from hearthd.options import merge

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared/conformance"))
UNITS_NS = {"time.Second": 10**9, "time.Minute": 60 * 10**9, "time.Millisecond": 10**6}


def cases(name: str) -> Any:
    path = ROOT / name
    if not path.is_file():
        pytest.skip(f"no conformance data at {path}; HEARTH_CONFORMANCE names its folder")
    return json.loads(path.read_text())


def expected_ns(factors: Any) -> int | None:
    if factors is None:
        return None
    if factors == [{"_ident": "math.MaxInt64"}]:
        return (1 << 63) - 1
    return math.prod(factor if isinstance(factor, int) else UNITS_NS[factor["_ident"]] for factor in factors)


def test_keep_alive_in_all_its_forms() -> None:
    for case in cases("api_types/TestKeepAliveParsingFromJSON.json"):
        request = bind(case["req"].encode(), ChatRequest)
        assert keep_alive_ns(request.keep_alive) == expected_ns(case["exp"]), case["name"]


def test_roles_are_lower_case_once_they_are_used() -> None:
    for text, role in cases("api_types/TestMessage_UnmarshalJSON.json"):
        assert bind(text.encode(), MessageInput).role.lower() == role


def test_use_mmap_is_unset_true_or_false() -> None:
    wanted = {"tr": True, "fa": False}
    for case in cases("api_types/TestUseMmapParsingFromJSON.json"):
        options = bind(b'{"options": %s}' % case["req"].encode(), GenerateRequest).options
        exp = case["exp"]
        assert merge(options).use_mmap is (wanted[exp["_ident"]] if exp else None), case["name"]


def test_main_gpu_is_unset_or_a_number() -> None:
    for case in cases("api_types/TestMainGPUParsingFromJSON.json"):
        options = bind(b'{"options": %s}' % case["req"].encode(), GenerateRequest).options
        exp = case.get("wantGPU")
        assert merge(options).main_gpu == (exp["args"][0] if exp else None), case["name"]


def test_think_is_unset_a_switch_or_a_level() -> None:
    for case in cases("api_types/TestThinking_UnmarshalJSON.json"):
        think = bind(case["input"].encode(), GenerateRequest).think
        if case.get("expectedError"):
            with pytest.raises(BadRequest, match='invalid think value: "invalid"'):
                read_think(think)
            continue
        expected = case["expectedThinking"]
        assert think == (expected["Value"] if expected else None), case["name"]
        assert read_think(think)[0] is (None if expected is None else bool(expected["Value"])), case["name"]


def tool(function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


def test_tools_are_read_with_all_their_properties() -> None:
    for case in cases("api_types/TestToolFunction_UnmarshalJSON.json"):
        (read,) = read_tools([tool(json.loads(case["input"]))])
        assert read.function.parameters.properties["test"].description == "test prop", case["name"]
    for case in cases("api_types/TestToolPropertyNestedProperties.json"):
        asked = json.loads(case["input"])
        (read,) = read_tools([tool({"name": "f", "parameters": {"type": "object", "properties": {"p": asked}}})])
        assert msgspec.to_builtins(read.function.parameters.properties["p"]) == asked, case["name"]


def test_parameters_of_a_tool_are_written_as_recorded() -> None:
    for case in cases("api_types/TestToolFunctionParameters_MarshalJSON.json"):
        asked = json.loads(case["expected"])
        (read,) = read_tools([tool({"name": "f", "parameters": asked})])
        written = msgspec.json.encode(read.function.parameters).decode()
        assert written == case["expected"], case["name"]


def test_type_of_a_property_is_a_text_or_a_list() -> None:
    for case in cases("api_types/TestPropertyType_UnmarshalJSON.json"):
        properties = {"p": {"type": json.loads(case["input"])}}
        (read,) = read_tools([tool({"name": "f", "parameters": {"type": "object", "properties": properties}})])
        kinds = read.function.parameters.properties["p"].type
        assert ([kinds] if isinstance(kinds, str) else kinds) == case["expected"], case["name"]
