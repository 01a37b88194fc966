"""A tokenizer without the tokens that the embedding has no row for.

Gemma 3's text checkpoints have the vocabulary of those with vision, in which <image_soft_token> comes behind the last
row of the embedding. Such a token would end a generation with an error, and the text is as good without it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hearth_export.errors import BadCheckpoint
from hearth_export.tokenizer import TokenizerFiles

Parts = dict[str, Any]  # of a document, those that stay as they are still encoded


def limited(tokenizer: TokenizerFiles, num_rows: int) -> TokenizerFiles:
    """The tokenizer with ids below `num_rows` only.

    Tokens that stand for themselves wherever they are (control, user-defined) are dropped; BadCheckpoint where the
    vocabulary has others so far behind.
    """
    if tokenizer.num_tokens <= num_rows:
        return tokenizer
    document = msgspec.json.decode(tokenizer.json, type=dict[str, msgspec.Raw])
    added: list[Parts] = msgspec.json.decode(document["added_tokens"])
    dropped = {token["content"] for token in added if token["id"] >= num_rows}
    parts: Parts = dict(document)
    parts["added_tokens"] = [token for token in added if token["content"] not in dropped]
    parts["model"] = _limited_model(document["model"], dropped, num_rows, tokenizer.num_tokens)
    return msgspec.structs.replace(
        tokenizer,
        json=msgspec.json.encode(parts),
        num_tokens=num_rows,
        eos_ids=[index for index in tokenizer.eos_ids if index < num_rows],
    )


def _limited_model(encoded: msgspec.Raw, dropped: set[str], num_rows: int, num_tokens: int) -> Parts:
    model: Parts = dict(msgspec.json.decode(encoded, type=dict[str, msgspec.Raw]))
    vocabulary = msgspec.json.decode(model["vocab"])
    if isinstance(vocabulary, list):
        indices = {entry[0]: index for index, entry in enumerate(vocabulary)}
    else:
        indices = vocabulary
    if any(index >= num_rows and token not in dropped for token, index in indices.items()):
        raise BadCheckpoint(
            f"the vocabulary (tokenizer.ggml.tokens or tokenizer.json) has {num_tokens} tokens, "
            f"but token_embd.weight has only {num_rows} rows"
        )
    if isinstance(vocabulary, list):
        model["vocab"] = vocabulary[:num_rows]
    else:
        model["vocab"] = {token: index for token, index in vocabulary.items() if index < num_rows}
    return model
