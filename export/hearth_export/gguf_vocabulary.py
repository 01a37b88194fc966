"""A checkpoint's vocabulary in GGUF's words, for a GGUF file that is written from it."""

from __future__ import annotations

from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import UnsupportedModel
from hearth_export.readers.gguf import Value


def gguf_vocabulary(checkpoint: Checkpoint) -> dict[str, Value]:
    """Every `tokenizer.*` key of a GGUF file that holds the checkpoint's vocabulary, chat template included.

    Texts are str, ids and counts int (uint32 in the file), flags bool, arrays MetaArray, whose `raw()` is what the file
    holds. UnsupportedModel where GGUF has no words for the vocabulary; the model itself can then still be converted.
    """
    if checkpoint.format == "gguf":
        return {key: value for key, value in checkpoint.metadata.items() if key.startswith("tokenizer.")}
    raise UnsupportedModel(f"{checkpoint.path}: its tokenizer cannot be written to a GGUF file")
