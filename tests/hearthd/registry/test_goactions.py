from __future__ import annotations

import pytest

from hearthd.errors import BadRequest
from hearthd.registry.families import FAMILIES
from hearthd.registry.goactions import MAX_CHARS, check_template


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no actions } }} { at all",
        "{{ .Prompt }}",
        "{{- /* a {{ comment }} */ -}}{{/* another */}}",
        "{{- range $i, $m := .Messages -}}{{ $m.Role }}{{ else }}none{{ end }}",
        '{{ if eq .Role "}}" }}a{{ else if .X }}b{{ else }}c{{ end }}',
        '{{ with $x := `raw }} " text` }}{{ $x }}{{ else with .Y }}{{ . }}{{ end }}',
        "{{ range .Messages }}{{ if .X }}{{ break }}{{ end }}{{ continue }}{{ end }}",
        '{{ template "t" . }}{{ define "t" }}{{ . }}{{ end }}{{ block "b" . }}x{{ end }}',
        '{{ (index .Messages 0).Content | printf "%q" }}{{ -3 }}{{ $ }}{{ json .Tools }}{{ currentDate }}',
        "{{ $a := true }}{{ $a = nil }}{{ slice $.Messages 1 | len }}",
        *(family.template for family in FAMILIES),
    ],
    ids=lambda text: text[:40],
)
def test_sound_template_passes(text: str) -> None:
    check_template(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{{ .Prompt ", ":1: unclosed action"),
        ("{{", ":1: unclosed action"),
        ("a\nb{{ }}", ":2: missing value for command"),
        ("{{/* comment", ":1: unclosed comment"),
        ('{{ "text }}', ":1: unterminated quoted string"),
        ("{{ ` }}", ":1: unterminated quoted string"),
        ("{{ .A } }}", ":1: unexpected } in an action"),
        ("\n{{ end }}", ":2: unexpected {{end}}"),
        ("{{ else }}", ":1: unexpected {{else}}"),
        ('{{ define "x" }}{{ else }}{{ end }}', ":1: unexpected {{else}}"),
        ("{{ if }}{{ end }}", ":1: missing value for if"),
        ("{{ if .A }}{{ else if }}{{ end }}", ":1: missing value for if"),
        ("{{ if .A }}\n\n", ":3: unexpected EOF: the if has no end"),
        ("{{ range .A }}{{ end }}{{ break }}", ":1: {{break}} outside {{range}}"),
        ("{{ upper .A }}", ':1: function "upper" not defined'),
        ("{{ $x }}", ':1: undefined variable "$x"'),
        ('{{ template "t" }}', ':1: undefined template specified: "t"'),
    ],
)
def test_unsound_template_is_refused_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_template(text)
    assert str(caught.value) == f"template error: template: {sentence}"


def test_template_of_any_length_has_an_answer() -> None:
    check_template("{{ .A }}\n" * 50_000)
    with pytest.raises(BadRequest, match="more than 1048576 characters"):
        check_template("x" * (MAX_CHARS + 1))
