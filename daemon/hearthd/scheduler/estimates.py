"""What loads are foreseen to take, corrected by what they took."""

from __future__ import annotations

import logging

from hearthd.engine.frames import Load
from hearthd.store.needs import Needs, needs
from hearthd.store.variant import VariantInfo

log = logging.getLogger(__name__)

TOLERANCE = 0.1  # beyond that share the log tells of an error
MAX_LEARNED = 256  # models


def needs_of(frame: Load, info: VariantInfo) -> Needs:
    """By the formula, for what a runner is told."""
    return needs(
        info,
        num_ctx=frame.num_ctx,
        num_slots=frame.num_slots,
        kv_type=frame.kv_type,
        num_batch=frame.num_batch,
        pinned=frame.use_mlock or not frame.use_mmap,
        vocab_only=frame.vocab_only,
    )


def size(num_bytes: int) -> str:
    """For people: "1.5 GiB", below that "300 MiB"."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes >> 20} MiB"


class Estimates:
    """Remembers by how much the formula was wrong for each model that was loaded."""

    def __init__(self) -> None:
        self._errors: dict[str, int] = {}  # load key -> bytes that the load took beyond the formula

    def error_bytes(self, key: str) -> int:
        """What to add to the formula; 0 for a model that was never loaded.

        Never less: what a load did not take may lie in mapped files, and comes with use.
        """
        return max(0, self._errors.get(key, 0))

    def total_bytes(self, key: str, needed: Needs) -> int:
        """All that the model will come to take."""
        return needed.total_bytes + self.error_bytes(key)

    def learn(self, key: str, name: str, needed: Needs, resident_bytes: int) -> None:
        """A load was over; `resident_bytes` 0: it was not measured."""
        if not resident_bytes:
            return
        foreseen_bytes = needed.loaded_bytes + self._errors.pop(key, 0)
        if abs(resident_bytes - foreseen_bytes) > TOLERANCE * resident_bytes:
            log.info("%s took %s to load, %s was foreseen", name, size(resident_bytes), size(foreseen_bytes))
        self._errors[key] = resident_bytes - needed.loaded_bytes
        if len(self._errors) > MAX_LEARNED:
            del self._errors[next(iter(self._errors))]
