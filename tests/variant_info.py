"""What a variant says of itself, for tests that have none."""

from __future__ import annotations

from typing import Any

from hearthd.store.variant import VariantInfo

FIELDS: dict[str, Any] = {
    "name": "cpu-int4",
    "exporter": "0",
    "source": "sha256:" + "0" * 64,
    "architecture": "llama",
    "files": {},
    "holders": {},
    "context_length": 64,
    "vocab_size": 300,
    "hidden_size": 8,
    "num_layers": 1,
    "num_heads": 1,
    "num_kv_heads": 1,
    "head_dim": 8,
    "ropes": [],
}


def variant_info(**fields: Any) -> VariantInfo:
    """A variant of next to nothing, but for `fields`."""
    return VariantInfo(**FIELDS | fields)
