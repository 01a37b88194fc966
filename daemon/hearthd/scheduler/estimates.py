"""What loads are foreseen to take, corrected by what they took."""

from __future__ import annotations

import logging

from hearthd.engine.frames import Load
from hearthd.log import fields
from hearthd.store.needs import Needs, needs
from hearthd.store.variant import VariantInfo

log = logging.getLogger(__name__)

LIMIT_SHARE = 1.25  # of what a runner needs, that it may take: needs are known to a tenth
LIMIT_BYTES = 192 << 20  # and as much more: see limit_bytes
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


def limit_bytes(needed_bytes: int) -> int:
    """What a runner that needs so much may take before it is one that has lost all measure.

    It takes more for a moment: pages of libraries and files that it is the first to read, and where a schema is tried
    in a process beside it, up to 128 MiB (engine/trial.py). A limit without room for these would not kill, but slow.
    """
    return int(LIMIT_SHARE * needed_bytes) + LIMIT_BYTES


def size(num_bytes: int) -> str:
    """For people: "1.5 GiB", below that "300 MiB"."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes >> 20} MiB"


class Estimates:
    """Remembers by how much the formula was wrong for each model that was loaded."""

    def __init__(self) -> None:
        self._errors: dict[str, int] = {}  # load key -> bytes that the load took beyond the formula
        self._outgrown: dict[str, int] = {}  # load key -> bytes that a runner took beyond that, and its limit too

    def error_bytes(self, key: str) -> int:
        """What to add to the formula; 0 for a model that was never loaded.

        Never less: what a load did not take may lie in mapped files, and comes with use.
        """
        return max(0, self._errors.get(key, 0)) + self._outgrown.get(key, 0)

    def outgrew(self, key: str, limit: int) -> bool:
        """A runner of the model took `limit` bytes and wanted more. Whether the next one gets more: once it does."""
        if key in self._outgrown:
            return False
        needed_bytes = int((limit - LIMIT_BYTES) / LIMIT_SHARE)
        self._outgrown[key] = max(0, limit - needed_bytes)
        _forget_oldest(self._outgrown)
        return True

    def forgive(self, key: str) -> bool:
        """There is no room for what the model got because a runner wanted more. Whether it needs less from now on."""
        if not self._outgrown.get(key):
            return False
        self._outgrown[key] = 0
        return True

    def total_bytes(self, key: str, needed: Needs) -> int:
        """All that the model will come to take."""
        return needed.total_bytes + self.error_bytes(key)

    def learn(self, key: str, name: str, needed: Needs, resident_bytes: int) -> None:
        """A load was over; `resident_bytes` 0: it was not measured."""
        if not resident_bytes:
            return
        foreseen_bytes = needed.loaded_bytes + self._errors.pop(key, 0)
        if abs(resident_bytes - foreseen_bytes) > TOLERANCE * resident_bytes:
            told = fields(model=name, num_bytes=resident_bytes)
            log.info(
                "%s took %s to load, %s was foreseen", name, size(resident_bytes), size(foreseen_bytes), extra=told
            )
        self._errors[key] = resident_bytes - needed.loaded_bytes
        _forget_oldest(self._errors)


def _forget_oldest(learned: dict[str, int]) -> None:
    if len(learned) > MAX_LEARNED:
        del learned[next(iter(learned))]
