from __future__ import annotations

import pytest

from hearthd.prompt.gotags import thinking_tags, tool_tag
from hearthd.prompt.gotemplate.parser import parse


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{{ range .Messages }}<t>{{ .Thinking }}</t>{{ end }}", ("<t>", "</t>")),
        ("{{ range .Messages }} a\n{{ .Thinking }}\n b {{ end }}", ("a", "b")),
        ("{{ range .Messages }}x{{ if .Thinking }}<t>{{ .Thinking }}</t>{{ end }}y{{ end }}", ("<t>", "</t>")),
        ("{{ range slice .Messages 1 }}<t>{{ .Thinking }}</t>{{ end }}", ("<t>", "</t>")),
        ("{{ range .Messages }}{{ with .Content }}<t>{{ print (.Thinking) }}</t>{{ end }}{{ end }}", ("<t>", "</t>")),
        ("{{ range .Messages }}{{ else }}<t>{{ .Thinking }}</t>{{ end }}", ("<t>", "</t>")),
        ("{{ range .Messages }}<t>{{ .Thinking }}{{ end }}", None),
        ("{{ range .Messages }}{{ .Thinking }}</t>{{ end }}", None),
        ("{{ range .Messages }} {{ .Thinking }} {{ end }}", None),
        ("{{ range .Messages }}{{ range .Others }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}", None),
        ("{{ range .Messages }}<t>{{ .Message.Thinking }}</t>{{ end }}", None),
        ("<t>{{ .Thinking }}</t>", None),
        ("{{ .Prompt }}", None),
    ],
)
def test_marks_around_thoughts_are_found_in_the_loop_over_messages(text: str, want: tuple[str, str] | None) -> None:
    assert thinking_tags(parse(text)) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{{ range .Messages }}{{ if .ToolCalls }}<tool_call>\n{{ end }}{{ end }}", "<tool_call>"),
        ('{{ if .ToolCalls }}<c>{"name": {{ .Name }}}{{ end }}', "<c>"),
        ("{{ if .Content }}a{{ else if .ToolCalls }}[CALLS] [{{ end }}", "[CALLS] ["),
        ("{{ with .A }}{{ range .B }}{{ else }}{{ if and .X .ToolCalls }}b{{ end }}{{ end }}{{ end }}", "b"),
        ("{{ if .ToolCalls }}\r\n \r\n{{ range .ToolCalls }}a\r\nb{{ end }}{{ end }}", "a\nb"),
        ("{{ if .ToolCalls }}{{ .Name }}text{{ end }}", "{"),
        ("{{ if .ToolCalls }}{{ if .A }}{{ else }}else{{ end }}text{{ end }}", "else"),
        ("{{ if .ToolCalls }}{{ range .A }}{{ end }}text{{ end }}", "{"),
        ("{{ if (.ToolCalls) }}text{{ end }}", "{"),
        ("{{ range .ToolCalls }}text{{ end }}", "{"),
        ("plain", "{"),
    ],
)
def test_mark_of_a_tool_call_is_the_first_text_written_for_one(text: str, want: str) -> None:
    assert tool_tag(parse(text)) == want
