from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hearthd.errors import InvalidName
from hearthd.store import names

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance")) / "names"

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")


@cache
def load(file: str) -> Any:
    return json.loads((ROOT / file).read_text())


def test_parts_and_paths_are_as_recorded() -> None:
    for case in load("name_cases.json")["parse_parts"]:
        parts, want = names.split(case["in"]), case["want"]
        assert parts.model == want["Model"]
        assert (parts.host, parts.namespace, parts.tag, parts.scheme) == tuple(
            want.get(key) for key in ("Host", "Namespace", "Tag", "ProtocolScheme")
        )
        assert list(names.parse(case["in"]).path) == case["wantFilepath"]["args"]


def is_complete(text: str) -> bool:
    try:
        parts = names.split(text)
    except InvalidName:
        return False
    return None not in (parts.host, parts.namespace, parts.tag)


def test_complete_valid_names_are_told_from_others() -> None:
    for text, want in load("name_cases.json")["valid"].items():
        assert is_complete(text) == want, text


def test_parts_are_valid_as_recorded() -> None:
    for case in load("name_cases.json")["TestNameIsValidPart"]:
        kind = case["kind"]["_ident"].removeprefix("kind").lower()
        if kind in names.PART_PATTERNS:  # a digest is no part of a name here
            assert names.is_valid_part(kind, case["s"]) == case["want"], case


def test_only_manifest_paths_are_names() -> None:
    for text, want in load("name_cases.json")["TestParseNameFromFilepath"].items():
        parts = tuple(json.loads(text)["args"]) if text.startswith("{") else (text,)
        name = names.from_path(parts)
        assert (name is None) == (not want), text
        if name is not None:
            assert name.path == (want["Host"], want["Namespace"], want["Model"], want["Tag"])


def test_display_names_are_as_recorded() -> None:
    for text, want in load("name_cases.json")["TestDisplayShortest"].items():
        assert names.parse(text).short == want


@pytest.mark.parametrize("group", ["TestParseRef", "TestParseSourceSuffix"])
def test_origins_are_told_as_recorded(group: str) -> None:
    for case in load("modelref_cases.json")[group]:
        want = case["wantSource"]["_ident"].removeprefix("ModelSource").lower()
        if "wantErr" in case:
            with pytest.raises(InvalidName):
                names.parse(names.split_origin(case["input"])[0])
        else:
            assert names.split_origin(case["input"]) == (case["wantBase"], want), case["name"]
            assert names.is_cloud(case["input"]) == (want == "cloud")
