"""A run of a whole encoder before it is published: its vectors are finite, and padding does not change them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from hearth_export.errors import ExportError
from hearth_export.ggml import Floats
from hearth_export.spec import EncoderSpec
from hearthd.store import variant

MOST_BYTES = 48 << 20  # of weights: a session holds them twice while it opens
NUM_TOKENS = 16
LEAST_COSINE = 0.999


def check_encoder(graph: Path, spec: EncoderSpec, data_bytes: int) -> None:
    """ExportError where two texts side by side do not get the vectors that they get alone.

    An encoder of more than MOST_BYTES is not run: conversions stay small, and its parts are checked one by one.
    """
    if data_bytes > MOST_BYTES:
        return
    long = min(NUM_TOKENS, spec.context_length)
    lengths = np.array([long, max(1, long // 3)], np.int32)
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (2, long))
    ids[1, lengths[1] :] = 0
    session = _open(graph)
    together = _run(session, ids, lengths)
    alone = [_run(session, ids[i : i + 1, : lengths[i]], lengths[i : i + 1])[0] for i in range(2)]
    for vector, other in zip(together, alone, strict=True):
        _require_alike(vector, other)


def _require_alike(vector: Floats, other: Floats) -> None:
    if not (np.isfinite(vector).all() and np.isfinite(other).all()):
        raise ExportError(
            "the converted encoder gives vectors that are not finite: its weights are damaged; nothing was published"
        )
    one, two = vector.astype(np.float64), other.astype(np.float64)
    product, sizes = float(one @ two), float(np.linalg.norm(one) * np.linalg.norm(two))
    if product < LEAST_COSINE * sizes:
        raise ExportError(
            f"the converted encoder gives a text another vector beside a longer one (cosine {product / sizes:.4f}, at "
            f"least {LEAST_COSINE} is asked for); nothing was published"
        )


def _open(graph: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what is logged below that is raised too
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ExportError(f"ONNX Runtime refuses the converted encoder: {error}") from error


def _run(session: ort.InferenceSession, ids: np.ndarray, lengths: np.ndarray) -> Floats:
    try:
        (vectors,) = session.run([variant.EMBEDDINGS], {variant.INPUT_IDS: ids, variant.LENGTHS: lengths})
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot run the converted encoder: {error}") from error
    result: Floats = vectors
    return result
