"""Files of environment variables, as systemd.exec(5) reads an EnvironmentFile=."""

from __future__ import annotations

import re
from pathlib import Path

MAX_FILE_BYTES = 1 << 20

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANKS = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"[#;](?:\\\n|[^\n])*\n?")  # a backslash at the end of a line goes on with the next
_LINE = re.compile(r"[^\n\r]*[\n\r]?")
# a quote that nothing closes goes to the end of the file
_SINGLE = re.compile(r"'([^']*)(?:'|\Z)[ \t]*", re.DOTALL)
_DOUBLE = re.compile(r'"((?:\\.|[^"\\])*)(?:"|\\?\Z)[ \t]*', re.DOTALL)
_ESCAPED = re.compile(r'\\(\n|["\\`$])')
_BARE = re.compile(r"((?:\\.|[^\n\r\\])*)", re.DOTALL)


def read_env_file(path: Path) -> dict[str, str]:
    """Name and value of each assignment in the file, the last one of a name. OSError where it cannot be read.

    What is no assignment is passed over, as systemd does.
    """
    with path.open("rb") as file:
        return parse(file.read(MAX_FILE_BYTES).decode("utf-8", "replace"))


def parse(text: str) -> dict[str, str]:
    """As read_env_file, of a text."""
    found: dict[str, str] = {}
    place = 0
    while place < len(text):
        blanks = _BLANKS.match(text, place)
        place = blanks.end() if blanks else place
        name = _NAME.match(text, place)
        sign = re.compile(r"[ \t]*=[ \t]*").match(text, name.end()) if name else None
        if name is None or sign is None:
            line = _COMMENT.match(text, place) or _LINE.match(text, place)
            place = max(line.end() if line else 0, place + 1)
            continue
        found[name[0]], place = _value(text, sign.end())
    return found


def _value(text: str, place: int) -> tuple[str, int]:
    """The value that begins at `place`, and where it ends: quoted pieces, then bare text to the end of the line."""
    value = ""
    while True:
        if single := _SINGLE.match(text, place):
            value, place = value + single[1], single.end()
        elif double := _DOUBLE.match(text, place):
            value, place = value + _ESCAPED.sub(lambda found: found[1].strip("\n"), double[1]), double.end()
        else:
            bare = _BARE.match(text, place)
            assert bare is not None
            return value + re.sub(r"\\(.)", r"\1", bare[1].replace("\\\n", "")).rstrip(" \t"), bare.end()
