from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import tokenizers

from hearth_export.errors import BadCheckpoint
from hearth_export.readers.gguf import open_gguf
from hearth_export.tokenizer import TokenizerFiles, build
from hearth_export.tokenizer_limit import limited
from tests.hearth_export.gguf_writer import Meta
from tests.tiny import tokens, write_tiny_gguf

NUM_TOKENS = len(tokens())
IMAGE = "<image_soft_token>"


@pytest.fixture
def longer(tmp_path: Path) -> TokenizerFiles:
    """A vocabulary with a control token behind the last row of the embedding."""
    types = np.array([3] * 3 + [1] * (NUM_TOKENS - 3) + [3], np.int32)
    keys: dict[str, Meta] = {"tokenizer.ggml.tokens": [*tokens(), IMAGE], "tokenizer.ggml.token_type": types}
    with open_gguf(write_tiny_gguf(tmp_path / "longer.gguf", extra=keys)) as gguf:
        return build(gguf)


def test_tokenizer_that_fits_is_left_as_it_is(longer: TokenizerFiles) -> None:
    assert limited(longer, NUM_TOKENS + 1) is longer


def test_control_token_behind_the_last_row_becomes_text(longer: TokenizerFiles) -> None:
    before, after = (tokenizers.Tokenizer.from_buffer(files.json) for files in (longer, limited(longer, NUM_TOKENS)))
    text = f"the {IMAGE} then"
    assert NUM_TOKENS in before.encode(text).ids
    ids = after.encode(text).ids
    assert max(ids) < NUM_TOKENS
    assert after.decode(ids) == text
    assert limited(longer, NUM_TOKENS).num_tokens == after.get_vocab_size() == NUM_TOKENS


def test_end_of_a_generation_behind_the_last_row_is_forgotten(longer: TokenizerFiles) -> None:
    ends = msgspec.structs.replace(longer, eos_ids=[2, NUM_TOKENS])
    assert limited(ends, NUM_TOKENS).eos_ids == [2]


def test_other_tokens_without_a_row_are_refused(longer: TokenizerFiles) -> None:
    with pytest.raises(BadCheckpoint, match=f"has {NUM_TOKENS + 1} tokens, but token_embd.weight has only 260 rows"):
        limited(longer, 260)
