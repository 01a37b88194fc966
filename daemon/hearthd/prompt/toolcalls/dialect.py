"""What every tool-call dialect offers, and the way to one by its name."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Sequence
from typing import ClassVar, Protocol, cast

import msgspec

from hearthd.prompt.conversation import Tool, ToolCall
from hearthd.prompt.toolcalls import DIALECTS

ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
ID_LENGTH = 8
MAX_CALLS = 256  # in one answer; what looks like further ones is text


class ToolParser(Protocol):
    """Takes the calls out of one answer. Text that turns out to be no call comes back as content."""

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """The content and the finished calls that `text` adds."""

    def flush(self) -> tuple[str, list[ToolCall]]:
        """What was held back, once no more text comes."""


class Dialect(Protocol):
    """A class of tool parsers."""

    visible: ClassVar[tuple[str, ...]]  # marks that are special tokens in some vocabulary

    def __call__(self, tools: Sequence[Tool], tag: str = "") -> ToolParser:
        """A parser for one answer; only `tools` can be called."""


def dialect_of(name: str) -> Dialect:
    """The dialect that DIALECTS lists as `name`. Raises KeyError where none is."""
    module, _, attribute = DIALECTS[name].partition(":")
    return cast(Dialect, getattr(importlib.import_module(module), attribute))


def numbered(call: ToolCall, index: int) -> ToolCall:
    """The call with its place in the answer and a fresh id."""
    name = "".join(secrets.choice(ID_CHARACTERS) for _ in range(ID_LENGTH))
    return msgspec.structs.replace(call, index=index, id=f"call_{name}")
