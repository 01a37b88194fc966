"""What is saved of the prompt that a model is loaded for, read into its slot while the model is being opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.frames import Load
from hearthd.engine.kvform import KVForm
from hearthd.engine.providers.provider import Provider
from hearthd.engine.session import step_sizes, window
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import VariantInfo

if TYPE_CHECKING:
    from hearthd.engine.prefixes import SavedPrefixes

MIN_READ = 64  # tokens: reading fewer is not worth it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resumed:
    """What the first slot holds already."""

    tokens: list[int]
    num_exact: int  # leading tokens that are exact, see CachedTokens

    def num_bytes(self, slot: NDArray[np.generic]) -> int:
        """What it takes of a slot (num_layers, 2, num_kv_heads, L, head_dim)."""
        return int(slot.nbytes) // int(slot.shape[3]) * len(self.tokens)


def saved_prompts(load: Load, info: VariantInfo, form: KVForm, provider: Provider) -> SavedPrefixes | None:
    """Where evaluated prompts outlive this process; None where they are not to."""
    if not load.prefix_dir:
        return None
    from hearthd.engine.prefixes import SavedPrefixes, prefix_key

    _, tile = step_sizes(load.num_batch, provider)
    num_ctx = window(load.num_ctx, info)
    key = prefix_key(info, form, tile=tile, device=provider.device, num_ctx=num_ctx)
    shape = (info.num_layers, 2, info.num_kv_heads, info.head_dim)
    return SavedPrefixes(Path(load.prefix_dir), key, load.prefix_bytes, shape, form.dtype)


def resume(
    prompts: SavedPrefixes, load: Load, tokenizer: Tokenizer, slot: NDArray[np.generic], *, tile: int
) -> Resumed | None:
    """Reads what is saved of `load.prompt` into the slot, if it is worth it. Raises nothing: the prompt is a guess."""
    try:
        tokens = tokenizer.encode_within(load.prompt, load.num_ctx)
        if not MIN_READ < len(tokens) <= load.num_ctx:
            return None
        found = prompts.longest(tokens, exact=False, tile=tile)
        if found is None or found.num_tokens < MIN_READ or not prompts.read(found, slot):
            return None
    except Exception as error:
        log.warning("what is saved of the next prompt is not read ahead: %s", error)
        return None
    return Resumed(tokens[: found.num_tokens], found.num_exact)
