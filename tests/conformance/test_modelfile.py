from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hearthd.errors import BadRequest
from hearthd.modelfile import parse, print_modelfile
from hearthd.options import parse_parameter

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))
CASES = ROOT / "modelfile" / "parser_cases.json"

pytestmark = pytest.mark.skipif(not CASES.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")


@cache
def cases() -> Any:
    return json.loads(CASES.read_text())


def as_pairs(commands: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(command["Name"], command["Args"]) for command in commands]


def parsed(text: str) -> list[tuple[str, str]]:
    return [(command.name, command.args) for command in parse(text).commands]


def expected_sentence(error: dict[str, Any]) -> str:
    known = {"errMissingFrom": "no FROM line", "io.ErrUnexpectedEOF": "unexpected EOF"}
    return known.get(error.get("_ident", "")) or f"(line {error['LineNumber']}): message role must be one of"


@pytest.mark.parametrize("group", ["from", "messages", "quoted", "comments"])
def test_every_case_parses_or_is_refused_as_recorded(group: str) -> None:
    for text, want, *errors in cases()[group]:
        if errors and errors[0]:
            with pytest.raises(BadRequest) as caught:
                parse(text)
            assert str(caught.value).startswith(expected_sentence(errors[0])), text
        else:
            assert parsed(text) == as_pairs(want), text


def test_parameters_keep_their_names_and_texts() -> None:
    for line, (name, value) in cases()["parameters"].items():
        assert parsed(f"FROM foo\nPARAMETER {line}\n") == [("model", "foo"), (name, value)]


def test_printed_modelfiles_parse_to_the_same_commands() -> None:
    for text in cases()["roundtrip"]:
        modelfile = parse(text)
        assert parse(print_modelfile(modelfile.commands)) == modelfile


@pytest.mark.parametrize("name", ["TestParseFileFile", "TestParseFileTrimSpace"])
def test_whole_files_parse_as_recorded(name: str) -> None:
    assert parsed(cases()[name]["input"]) == as_pairs(cases()[name]["expected"])


def test_parameters_of_a_create_request_have_their_types() -> None:
    for text, want in cases()["create_request"]:
        modelfile = parse(text)
        assert modelfile.values("model") == [want["From"]]
        assert modelfile.values("license") == want.get("License", [])
        assert modelfile.values("system") == ([want["System"]] if "System" in want else [])
        assert modelfile.values("template") == ([want["Template"]] if "Template" in want else [])
        typed = {name: parse_parameter(name, value) for name, value in modelfile.parameters()}
        assert typed == want.get("Parameters", {})
        messages = [(message["Role"], message["Content"]) for message in want.get("Messages", [])]
        assert modelfile.messages() == messages
