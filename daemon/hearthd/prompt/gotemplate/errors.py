"""What goes wrong with a template."""

from __future__ import annotations

from hearthd.errors import HearthError


class TemplateError(HearthError):
    """A template that cannot be parsed, or cannot be run on what it was given."""


class Fault(Exception):
    """What a function or an operation has against its arguments; the caller knows the place in the template."""
