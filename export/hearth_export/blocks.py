"""Rows of blocks taken apart: what every unpacker gives, and the pieces they are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """W[r, k] = (q[r, k] - centre) * scale[r, k // block] + offset[r, k // block], in float32."""

    q: Bytes  # (rows, K)
    centre: int  # 8 or 128: 1 << (bits - 1)
    scale: Floats  # (rows, K // block)
    offset: Floats | None  # (rows, K // block); None means 0
    bits: int  # 4 or 8: what q needs as an unsigned code
    block: int  # 16 or 32; 128 or 256 where codes without offsets share a scale that far


# -- pieces of the unpackers; `b` is (rows, blocks a row, bytes a block) ---------------------------------------------


def split(raw: Bytes, num_bytes: int) -> Bytes:
    return np.ascontiguousarray(raw).reshape(raw.shape[0], -1, num_bytes)


def half(b: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, (rows, blocks) float32."""
    return np.ascontiguousarray(b[:, :, at : at + 2]).view(np.float16)[:, :, 0].astype(np.float32)


def fields(packed: Bytes, width: int) -> Bytes:
    """Bit fields of `width` bits, lowest first: (..., n) -> (..., 8 // width, n)."""
    *leading, num_bytes = packed.shape
    if num_bytes % 8:
        shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
        return (packed[..., None, :] >> shifts) & np.uint8((1 << width) - 1)
    words = np.ascontiguousarray(packed).view(np.uint64)
    mask = np.uint64(((1 << width) - 1) * 0x0101010101010101)
    runs = np.empty((*leading, 8 // width), np.dtype((np.void, num_bytes)))  # n bytes are copied at once
    for i in range(8 // width):
        runs[..., i] = (words >> np.uint64(i * width) & mask).view(runs.dtype)[..., 0]
    return runs[..., None].view(np.uint8)


def nibbles(packed: Bytes) -> Bytes:
    """(rows, blocks, n) -> (rows, blocks, 2 n): the low nibbles of all n bytes, then the high ones."""
    return fields(packed, 4).reshape(*packed.shape[:2], -1)


def finish(q: Bytes, bits: int, scale: Floats, offset: Floats | None, block: int) -> Blocks:
    rows = q.shape[0]
    return Blocks(
        q=q.reshape(rows, -1),
        centre=1 << (bits - 1),
        scale=np.ascontiguousarray(scale).reshape(rows, -1),
        offset=None if offset is None else np.ascontiguousarray(offset).reshape(rows, -1),
        bits=bits,
        block=block,
    )
