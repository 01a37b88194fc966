"""Columns of text, spaced as Ollama's command line spaces them, so that scripts written for it go on working."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from hearthd.command.terminal import line
from hearthd.command.wrap import text_width

GAP = "    "  # after every cell, the last one too


def table_text(rows: Sequence[Sequence[str]], header: Sequence[str] = (), max_width: int = 10_000) -> str:
    """The table, a newline after each line; cells wider than `max_width` columns go on below."""
    folded = [[_fold(cell, max_width) for cell in row] for row in rows]
    num_columns = max((len(row) for row in [header, *rows]), default=0)
    widths = [len(title) for title in header] + [0] * (num_columns - len(header))
    for row in folded:
        for column, lines in enumerate(row):
            widths[column] = max(widths[column], *map(text_width, lines))
    heading = GAP.join(_pad(title, width) for title, width in zip(header, widths, strict=False))
    text = f"{heading} \n" if header else ""
    return text + "".join(_row(row, widths) for row in folded)


def _fold(cell: str, max_width: int) -> list[str]:
    return textwrap.wrap(line(cell, 10_000), max_width, break_long_words=False, break_on_hyphens=False) or [""]


def _row(cells: list[list[str]], widths: list[int]) -> str:
    height = max(map(len, cells))
    lines = ([lines[at] if at < len(lines) else "" for lines in cells] for at in range(height))
    return "".join(
        "".join(_pad(text, width) + GAP for text, width in zip(texts, widths, strict=False)) + "\n" for texts in lines
    )


def _pad(text: str, width: int) -> str:
    return text + " " * (width - text_width(text))
