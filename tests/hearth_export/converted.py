"""Converted models, evaluated through the engine's own session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearth_export.pipeline import convert
from hearth_export.precision import Goal
from hearthd.engine.session import Session, open_session
from hearthd.store import variant
from hearthd.store.variant import VariantInfo, past_name, read_variant

Floats = NDArray[np.float32]
DIGEST = "sha256:" + 64 * "5"


def quiet(stage: str, done: int, total: int) -> None:
    """Progress that nobody reads."""


def converted(source: Path, root: Path, goal: Goal = Goal.BYTES) -> Path:
    """The directory of the variant that the pipeline makes of `source` under `root`."""
    return root / convert(source, DIGEST, root, goal, quiet)


def opened(directory: Path, num_ctx: int = 64) -> Session:
    return open_session(directory, info_of(directory), num_ctx=num_ctx, num_threads=2)


def info_of(directory: Path) -> VariantInfo:
    info = read_variant(directory)
    assert info is not None
    return info


def decode_logits(directory: Path, tokens: list[int]) -> Floats:
    """(len(tokens), V): each token evaluated by itself, as in generation."""
    session = opened(directory, len(tokens))
    rows = []
    for position, token in enumerate(tokens):
        session.decode((token,), (position,))
        rows.append(session.logits[0].copy())
    return np.stack(rows)


def prefill_logits(directory: Path, tokens: list[int]) -> Floats:
    """(len(tokens), V): all tokens evaluated at once, as in a prompt."""
    session, length = opened(directory, len(tokens)), len(tokens)
    feeds: dict[str, NDArray[np.generic]] = {
        variant.INPUT_IDS: np.array([tokens], np.int64),
        variant.SEQLENS_K: np.array([length - 1], np.int32),
        variant.TOTAL_LENGTH: np.array([length], np.int32),
        variant.ROWS: np.arange(length, dtype=np.int64),
        **session.rotations,
    }
    for layer in range(session.info.num_layers):
        feeds |= {past_name(layer, kind): session.cache.of(layer, kind) for kind in ("key", "value")}
    (logits,) = session.ort.run([variant.LOGITS], feeds)
    return np.asarray(logits, np.float32)
