"""Keys and values as int8: what one step of a code is worth, found once for a variant and kept beside it.

ONNX Runtime's attention takes one scale a channel that holds for all tokens. It is found by reading PASSAGES with the
float graph: the widest key and value of each channel, and a margin over it, for other texts go further and what lies
beyond the scale is clipped. A key's channels i and i + D/2 are turned into one another by its position, so the pair has
one scale: of its length, which no turn changes. It also makes turning possible without unpacking (`shift.py`).

    <variant>/kv-q8_0.scales    (num_layers, 2, num_kv_heads, head_dim) float32, little-endian; CRC-32 of these bytes
"""

from __future__ import annotations

import gc
import logging
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hearthd.engine import trimming
from hearthd.engine.kvform import KVForm, float_form
from hearthd.engine.rotations import inv_freq_of, is_long, rotary_tables
from hearthd.errors import StoreError
from hearthd.store import variant
from hearthd.store.durable import write_file
from hearthd.store.variant import Q8_0, VariantInfo

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Encode = Callable[[str], list[int]]
OpenGraph = Callable[[Path], ort.InferenceSession]

SCALES_FILE = "kv-q8_0.scales"
LONG_SCALES_FILE = "kv-q8_0.long.scales"  # of windows in which a rope has other frequencies
MAX_CODE = 127
MARGIN = 1.3  # over the widest seen: less clips more of other texts, more is coarser; 1.25 to 1.5 make no difference
PASSAGE_TOKENS = 256  # read of each passage, at most: all of it, but where a vocabulary knows only bytes
MIN_SHARE = 1e-3  # of the widest channel of its head: a channel that was silent may still speak
KINDS = ("key", "value")
CHECK_BYTES = 4


def form_of(
    kv_type: str, directory: Path, info: VariantInfo, encode: Encode, open_graph: OpenGraph, num_ctx: int = 0
) -> KVForm:
    """How a session shall hold keys and values where `kv_type` is asked for ("": no wish).

    A variant that has no graph for it holds them as its first graph does, and a warning says so. int8 needs scales: the
    first time they are found with `encode`, the tokenizer's, and `open_graph`, the provider's. A window of `num_ctx`
    tokens in which a rope has frequencies of its own has scales of its own. Raises what ONNX Runtime raises.
    """
    served = info.served_kv_type(kv_type)
    if served != Q8_0:
        if kv_type not in ("", served):
            log.warning("keys and values are held as %s: this model has no graph for %s", served, kv_type)
        return float_form(info)
    scales = read_scales(directory, info, num_ctx)
    if scales is None:
        scales = find_scales(open_graph(directory / info.graph), info, encode, num_ctx)
        gc.collect()
        trimming.trim()  # of the float graph nothing is needed any more
        _keep(_scales_file(directory, info, num_ctx), scales)
    return KVForm(Q8_0, info.kv_graphs[Q8_0], "int8", _inputs(scales))


def _scales_file(directory: Path, info: VariantInfo, num_ctx: int) -> Path:
    return directory / (LONG_SCALES_FILE if is_long(info, num_ctx) else SCALES_FILE)


def read_scales(directory: Path, info: VariantInfo, num_ctx: int = 0) -> Floats | None:
    """The scales kept beside a variant, as find_scales gives them; None where there are none, or damaged ones."""
    path = _scales_file(directory, info, num_ctx)
    shape = (info.num_layers, 2, info.num_kv_heads, info.head_dim)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body, check = content[:-CHECK_BYTES], content[-CHECK_BYTES:]
    if len(body) != 4 * np.prod(shape) or check != _check(body):
        log.warning("%s is damaged and made again", path)
        return None
    return np.frombuffer(body, "<f4").astype(np.float32).reshape(shape)


def find_scales(session: ort.InferenceSession, info: VariantInfo, encode: Encode, num_ctx: int) -> Floats:
    """Scales for all channels, (num_layers, 2, num_kv_heads, head_dim), from what a float graph makes of PASSAGES."""
    from hearthd.engine.calibration import PASSAGES

    log.info("the range of keys and values is measured, once for this model")
    widest = np.zeros((info.num_layers, 2, info.num_kv_heads, info.head_dim), np.float32)
    for passage in PASSAGES:
        ids = encode(passage)[: min(PASSAGE_TOKENS, info.context_length)]
        if not ids:
            continue  # a vocabulary that knows nothing of this kind
        for layer, (keys, values) in enumerate(_evaluated(session, info, ids, num_ctx)):
            widths = _pair_lengths(keys, len(inv_freq_of(info, layer, num_ctx))), np.abs(values)
            np.maximum(widest[layer], [width.max(axis=1) for width in widths], out=widest[layer])
    floor = np.maximum(widest.max(axis=-1, keepdims=True) * MIN_SHARE, np.finfo(np.float32).tiny * MAX_CODE)
    scales: Floats = np.maximum(widest, floor) * np.float32(MARGIN / MAX_CODE)
    if not np.isfinite(scales).all():
        raise ValueError("the model computes keys or values that are not finite: its weights are damaged")
    return scales


def _evaluated(
    session: ort.InferenceSession, info: VariantInfo, ids: list[int], num_ctx: int
) -> list[tuple[Floats, Floats]]:
    """Keys and values of `ids` in each decoder layer, (num_kv_heads, len(ids), head_dim) each."""
    names = [variant.present_name(layer, kind) for layer in range(info.num_layers) for kind in KINDS]
    arrays = [array[0].astype(np.float32) for array in session.run(names, _feeds(info, ids, num_ctx))]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _feeds(info: VariantInfo, ids: list[int], num_ctx: int) -> dict[str, NDArray[np.generic]]:
    """The graph's inputs for a text of its own, of which no token's logits are wanted."""
    feeds: dict[str, NDArray[np.generic]] = {
        variant.INPUT_IDS: np.array([ids], np.int64),
        variant.SEQLENS_K: np.array([len(ids) - 1], np.int32),
        variant.TOTAL_LENGTH: np.array([len(ids)], np.int32),
        variant.ROWS: np.zeros(0, np.int64),
        **rotary_tables(info, num_ctx, len(ids)),
    }
    empty = np.zeros((1, info.num_kv_heads, 0, info.head_dim), info.kv_dtype)
    for layer in range(info.num_layers):
        feeds |= {variant.past_name(layer, kind): empty for kind in KINDS}
    return feeds


def _pair_lengths(keys: Floats, half: int) -> Floats:
    """For each channel of (.., head_dim) keys the length of its pair; of one that is not rotated its own."""
    lengths = np.abs(keys)
    lengths[..., :half] = np.hypot(keys[..., :half], keys[..., half : 2 * half])
    lengths[..., half : 2 * half] = lengths[..., :half]
    return lengths


def _keep(path: Path, scales: Floats) -> None:
    body = scales.astype("<f4").tobytes()
    try:
        write_file(path, body + _check(body))
    except (StoreError, OSError) as error:
        log.info("the scales of keys and values are not kept: %s", error)


def _check(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(CHECK_BYTES, "little")


def _inputs(scales: Floats) -> Mapping[str, NDArray[np.generic]]:
    """The graph's inputs: an array (1, num_kv_heads, 1, head_dim) for keys and values of each layer."""
    return {
        variant.scale_name(layer, kind): np.ascontiguousarray(scales[layer, place][np.newaxis, :, np.newaxis])
        for layer in range(len(scales))
        for place, kind in enumerate(KINDS)
    }
