"""README says what the code says."""

from __future__ import annotations

from pathlib import Path

from hearthd.api.routes import ROUTES
from hearthd.config import settings_table
from hearthd.options import OPTIONS

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_settings_of_readme_are_those_of_the_code() -> None:
    section = README.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert section.strip() == f"```\n{settings_table().strip()}\n```", "paste the table of `hearth --help` into README"


def test_every_option_has_a_row_in_readme() -> None:
    section = README.partition("### Options")[2].partition("\n## ")[0]
    rows = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    named = {word.strip(" ,") for word in rows.split()}
    assert set(OPTIONS) - named == set()


def test_every_endpoint_is_named_in_readme() -> None:
    missing = [route.path for route in ROUTES if route.path.replace("{digest}", ":digest") not in README]
    assert missing == []
