"""The published cases of request parsing, where they are at hand."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hearthd.api.binding import bind
from hearthd.api.opening import keep_alive_ns
from hearthd.api.wire import ChatRequest, GenerateRequest, MessageInput
from hearthd.options import merge
from hearthd.prompt.truncate import fit

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


class Said:
    """A message of the published conversations, which hold images."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.role: str = fields["Role"]
        self.content: str = fields.get("Content", "").removesuffix(" [img]")
        self.images: list[Any] = fields.get("Images", [])


async def count_words(kept: Sequence[Said]) -> int:
    return sum(len(said.content.split()) + len(said.images) * (768 + 1) for said in kept)


def test_the_same_messages_are_dropped_from_long_conversations() -> None:
    for case in cases("chatprompt/TestChatPrompt.json"):
        if not case.get("truncate", True):
            continue
        said = [Said(fields) for fields in case["msgs"]]
        kept = asyncio.run(fit(said, count_words, case["limit"]))
        prompt = case["expect"]["prompt"]
        assert [s.content in prompt for s in said if s.content] == [s in kept for s in said if s.content], case["name"]
        assert [image for s in kept for image in s.images] == case["expect"].get("images", []), case["name"]
