from __future__ import annotations

from pathlib import Path

from hearthd.command.verbs import LOCAL, VERBS

PAGE = Path(__file__).parents[3] / "docs" / "command-line.md"


def test_every_verb_is_documented() -> None:
    described = {line.split()[1] for line in PAGE.read_text().splitlines() if line.startswith("hearth ")}
    assert {*VERBS, *LOCAL} - {"help"} <= described
