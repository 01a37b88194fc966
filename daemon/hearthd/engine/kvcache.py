"""Keys and values of the tokens evaluated so far, in memory that is resident only where it was written."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from hearthd.store.variant import VariantInfo


class KVCache:
    """One buffer for all layers: (num_layers, 2, 1, num_kv_heads, num_ctx, head_dim).

    The mapping is private and anonymous: untouched pages cost nothing, so resident memory follows the tokens in use.
    """

    def __init__(self, info: VariantInfo, num_ctx: int) -> None:
        dtype = np.dtype(info.kv_dtype)
        shape = (info.num_layers, 2, 1, info.num_kv_heads, num_ctx, info.head_dim)
        self.num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._mapping = mmap.mmap(-1, self.num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.values: NDArray[np.generic] = np.frombuffer(self._mapping, dtype).reshape(shape)

    def of(self, layer: int, kind: str) -> NDArray[np.generic]:
        """Keys or values of a layer, (1, num_kv_heads, num_ctx, head_dim): past and present at once."""
        buffer: NDArray[np.generic] = self.values[layer, ("key", "value").index(kind)]
        return buffer
