from __future__ import annotations

from typing import Any

import pytest

from hearthd.registry.capabilities import capabilities, parameter_size
from hearthd.store.variant import SourceInfo


def source(chat_template: str = "", metadata: dict[str, Any] | None = None) -> SourceInfo:
    facts = {f"llama.{key}": value for key, value in (metadata or {}).items()}
    return SourceInfo(
        architecture="llama",
        file_type="Q4_1",
        parameter_count=1,
        metadata=facts,
        tensors=[],
        chat_template=chat_template or None,
    )


@pytest.mark.parametrize(
    ("info", "template", "want"),
    [
        (source(), "", ("completion",)),
        (source("", {"pooling_type": 1}), "", ("embedding",)),
        (source("", {"vision.block_count": 2}), "", ("completion", "vision")),
        (source("{% if tools %}"), "", ("completion", "tools")),
        (source("{{ tool_calls }}<think></think>"), "", ("completion", "tools", "thinking")),
        (source("<think>"), "", ("completion",)),
        (source("{% if tools %}"), "{{ .Prompt }}{{ .Suffix }}", ("completion", "insert")),
        (source(), "{{ .Tools }}", ("completion", "tools")),
        (source(), "{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}", ("completion", "thinking")),
        (source(), "{{ if .Thinking }}/think{{ end }}{{ .Prompt }}", ("completion",)),
        (source(), "the words .Tools and .Suffix {{/* .Tools */}}{{ .Prompt }}", ("completion",)),
        (source(), "{{ if .Tools }}{{ (index .Messages 0).Suffix }}{{ end }}", ("completion", "tools")),
        (source("{% if tools %}"), "{{ .Tools", ("completion",)),
    ],
)
def test_capabilities_follow_from_facts_and_templates(info: SourceInfo, template: str, want: tuple[str, ...]) -> None:
    assert capabilities(info, template) == want


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (8_030_261_248, "8.0B"),
        (1_000_000_000, "1B"),
        (134_515_008, "134.52M"),
        (7_000_000, "7M"),
        (361_821, "362K"),
        (999, "999"),
        (0, "0"),
    ],
)
def test_parameter_counts_are_shortened(count: int, text: str) -> None:
    assert parameter_size(count) == text
