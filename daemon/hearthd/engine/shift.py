"""Dropping tokens from the middle of a KV cache: those behind move forward, and their keys turn back.

Keys are held rotated by their position (RoFormer, Su et al. 2021): dimensions i and i + D/2 of a head form a
pair that position p turns by p * inv_freq[i]. Turns add up, so a key that moves `distance` positions forward
is turned back by distance * inv_freq. What multiplies cos and sin (YaRN, Peng et al. 2023, section 3.4) is in the key
already and stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

SCRATCH_BYTES = 1 << 20
MAX_CODE = 127


class Turn:
    """Turns keys back by `distance` positions. Dimensions beyond 2 * len(inv_freq) are not rotated and stay."""

    def __init__(self, inv_freq: list[float], distance: int) -> None:
        angles = distance * np.array(inv_freq, np.float64)
        self._cos = np.cos(angles).astype(np.float32)  # (D / 2,)
        self._sin = np.sin(angles).astype(np.float32)
        self._half = len(inv_freq)

    def __call__(self, keys: Array) -> Array:
        """(.., head_dim) keys of any float type, or codes, turned; a new float32 array."""
        turned = keys.astype(np.float32)
        half = self._half
        left, right = turned[..., :half], turned[..., half : 2 * half]
        turned_left = left * self._cos + right * self._sin
        right *= self._cos
        right -= left * self._sin
        left[...] = turned_left
        return turned


def _held(turned: Array, dtype: np.dtype[np.generic]) -> Array:
    """The nearest that `dtype` can hold: codes are whole numbers, and what left their range stays at its end."""
    if dtype == np.int8:
        np.rint(turned, out=turned)
        np.clip(turned, -MAX_CODE, MAX_CODE, out=turned)
    return turned


def _runs(first: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(first, end, size):
        yield start, min(start + size, end)


def drop_positions(keys: Array, values: Array, inv_freq: list[float], *, kept: int, count: int, length: int) -> None:
    """Of `length` positions, removes `count` after the first `kept`, in place.

    `keys` and `values` are one decoder layer's, (.., num_ctx, head_dim), of a float type or int8 codes. Scratch memory
    is some SCRATCH_BYTES, whatever the length.
    """
    turn = Turn(inv_freq, count)
    row_bytes = 4 * keys.size // keys.shape[-2]
    size = max(1, SCRATCH_BYTES // row_bytes)
    for start, end in _runs(kept, length - count, size):  # forward: a run is read before anything lands on it
        keys[..., start:end, :] = _held(turn(keys[..., start + count : end + count, :]), keys.dtype)
        values[..., start:end, :] = values[..., start + count : end + count, :].copy()
