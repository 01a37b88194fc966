"""How keys and values are held: as the variant's float type, or quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hearthd.store.variant import VariantInfo


@dataclass(frozen=True, slots=True)
class KVForm:
    """What a session must know of it."""

    name: str  # "f32", "q8_0"
    graph: str  # file of the variant
    dtype: str  # of the KV buffer
    inputs: Mapping[str, NDArray[np.generic]] = field(
        default_factory=dict
    )  # more of the graph's inputs, bound as they are


def float_form(info: VariantInfo) -> KVForm:
    """Keys and values as the variant's first graph has them."""
    return KVForm("f32", info.graph, info.kv_dtype)
