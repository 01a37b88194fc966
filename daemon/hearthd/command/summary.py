"""What an answer took, for --verbose."""

from __future__ import annotations

from hearthd.command.amounts import SECOND_NS, duration_text
from hearthd.command.replies import Chunk


def summary(last: Chunk) -> str:
    """Lines of durations, counts and rates; those that the server did not tell are left out."""
    rows = [
        ("total duration", last.total_duration and duration_text(last.total_duration)),
        ("load duration", last.load_duration and duration_text(last.load_duration)),
        ("prompt eval count", last.prompt_eval_count and f"{last.prompt_eval_count} token(s)"),
        ("prompt eval duration", last.prompt_eval_duration and duration_text(last.prompt_eval_duration)),
        ("prompt eval rate", _rate(last.prompt_eval_count, last.prompt_eval_duration)),
        ("eval count", last.eval_count and f"{last.eval_count} token(s)"),
        ("eval duration", last.eval_duration and duration_text(last.eval_duration)),
        ("eval rate", _rate(last.eval_count, last.eval_duration)),
    ]
    return "".join(f"{name + ':':<21} {value}\n" for name, value in rows if value)


def _rate(count: int, length_ns: int) -> str:
    return f"{count * SECOND_NS / length_ns:.2f} tokens/s" if count and length_ns else ""
