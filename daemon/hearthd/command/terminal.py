"""What is known of the terminal, and text that cannot steer it."""

from __future__ import annotations

import os
import re
import sys
from typing import IO

DEFAULT_COLUMNS = 80

# https://www.unicode.org/charts/PDF/U0080.pdf: a terminal may act on C0 and C1 controls; tab and newline are harmless
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """`text` without control characters other than tab and newline: it may come from anywhere."""
    return _CONTROLS.sub("", text)


def line(text: str, max_chars: int = 2000) -> str:
    """`text` on one line, bounded."""
    return plain(" ".join(text.split()))[:max_chars]


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person reads or writes there, with a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def num_columns(stream: IO[str] | None = None) -> int:
    """Width of the terminal behind `stream` (standard output), 80 where it does not tell."""
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or DEFAULT_COLUMNS
    except (OSError, ValueError):
        return DEFAULT_COLUMNS
