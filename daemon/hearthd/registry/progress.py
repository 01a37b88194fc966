"""What a client sees of a model being made, pulled or pushed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the answer. The last one of a success has status "success"."""

    status: str
    digest: str = ""
    total: int = 0  # bytes
    completed: int = 0  # bytes


Report = Callable[[Progress], None]
