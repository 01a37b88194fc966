"""What stops a conversion. str() of each is one sentence for the user: it names the file, the field and the value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class ExportError(Exception):
    """A conversion cannot go on; base of everything that the exporter raises on purpose."""


class BadCheckpoint(ExportError):
    """The file is truncated, damaged or contradicts itself."""


class UnsupportedModel(ExportError):
    """The file is sound, but holds something that this version cannot convert."""


class UnknownModelType(UnsupportedModel):
    """The builder does not know this kind of model; another route may."""


def missing(tensor: str) -> BadCheckpoint:
    """What to raise where a checkpoint has no tensor of this name."""
    return BadCheckpoint(
        f"tensor {tensor} is missing: the checkpoint is incomplete, or of a kind that cannot be converted"
    )


@contextlib.contextmanager
def naming(source: Path) -> Iterator[None]:
    """Every ExportError from inside names the file."""
    try:
        yield
    except ExportError as error:
        if str(source) in str(error):
            raise
        raise type(error)(f"{source}: {error}") from error
