"""What goes wrong with a template."""

from __future__ import annotations

from hearthd.errors import HearthError

MAX_CHARS = 1000  # of an error


class TemplateError(HearthError):
    """A template that cannot be parsed, or cannot be run on what it was given."""

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}...")


class Fault(Exception):
    """What a function or an operation has against its arguments; the caller knows the place in the template."""
