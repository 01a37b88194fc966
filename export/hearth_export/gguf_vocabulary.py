"""A checkpoint's vocabulary in GGUF's words, for a GGUF file that is written from it."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import UnsupportedModel
from hearth_export.readers.values import MetaArray, Value
from hearth_export.repository_files import TOKENIZER, RepositoryFiles
from hearth_export.repository_model import Model
from hearth_export.repository_tokenizer import Document, Loaded, load_marked, read_document
from hearth_export.repository_vocabulary import (
    PREFIX,
    SPECIAL_KEYS,
    Tokens,
    other_marks,
    put_added,
    vocabulary_of_files,
    word_piece_entries,
)
from hearth_export.tokenizer_document import Part, steps
from hearth_export.tokenizer_keys import BYTE, NORMAL, SPACE, UNKNOWN, UNUSED
from hearth_export.tokenizer_pre import name_of

INSTEAD = "the model can be converted as it is, but not written to a GGUF file"


def gguf_vocabulary(checkpoint: Checkpoint) -> dict[str, Value]:
    """Every `tokenizer.*` key of a GGUF file that holds the checkpoint's vocabulary, chat template included.

    Texts are str, ids and counts int (uint32 in the file), flags bool, arrays MetaArray, whose `raw()` is what the file
    holds. UnsupportedModel where GGUF has no words for the vocabulary; the model itself can then still be converted.
    """
    if checkpoint.format == "gguf":
        return {key: value for key, value in checkpoint.metadata.items() if key.startswith("tokenizer.")}
    files = RepositoryFiles(checkpoint)
    raw = files.read_file(TOKENIZER)
    if raw is None:
        return vocabulary_of_files(files)
    document = read_document(files, raw)
    loaded, marked = _marks(files, document)
    model = loaded.model
    tokens = _tokens(files, document, model)
    try:
        entries = _entries(document, model, tokens)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{files.path}: {TOKENIZER}: {error}; {INSTEAD}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise files.bad(TOKENIZER, f"is damaged: {type(error).__name__}: {str(error)[:200]}") from error
    return entries | marked | other_marks(files, marked, tokens.ids())


def _marks(files: RepositoryFiles, document: Document) -> tuple[Loaded, dict[str, Value]]:
    """Ids of special tokens, and what is put around a text."""
    loaded, marked = load_marked(files, document)
    ids = {key: loaded.id_of(files.text_of(name)) for name, key in SPECIAL_KEYS.items()}
    ids |= {"bos": marked.bos_id, "eos": marked.eos_id}
    found: dict[str, Value] = {f"{PREFIX}{key}_token_id": index for key, index in ids.items() if index is not None}
    if marked.bos_id is not None:
        found[f"{PREFIX}add_bos_token"] = marked.add_bos
    if marked.eos_id is not None:
        found[f"{PREFIX}add_eos_token"] = marked.add_eos
    return loaded, found


def _tokens(files: RepositoryFiles, document: Document, model: Model) -> Tokens:
    tokens = Tokens([], [], [])
    listed = isinstance(model.vocab, list)
    unknown = model.unk_token
    try:
        if isinstance(model.vocab, list):
            for index, (text, score) in enumerate(model.vocab):
                tokens.put(index, text, UNKNOWN if index == model.unk_id else NORMAL, score)
        else:
            for text, index in model.vocab.items():
                tokens.put(index, text, UNKNOWN if text == unknown and model.type == "BPE" else NORMAL)
    except ValueError as error:
        raise files.bad(TOKENIZER, str(error)) from None
    if model.byte_fallback or listed:
        for byte in range(256):
            index_of = model.vocab.get(f"<0x{byte:02X}>") if isinstance(model.vocab, dict) else None
            if index_of is not None:
                tokens.types[index_of] = BYTE
    added = [(token["id"], token["content"], bool(token.get("special"))) for token in document.added_tokens]
    put_added(files, tokens, added)
    return tokens


def _entries(document: Document, model: Model, tokens: Tokens) -> dict[str, Value]:
    if model.type == "WordPiece":
        return _word_pieces(document, tokens)
    if model.type == "Unigram":
        return _unigram(document, tokens)
    if model.type == "BPE":
        parts = [*steps(document.pre_tokenizer, "pretokenizers"), *steps(document.decoder, "decoders")]
        byte_level = any(step.get("type") == "ByteLevel" for step in parts)
        return _byte_level(document, model, tokens) if byte_level else _visible_spaces(document, model, tokens)
    raise UnsupportedModel(f"a model of type {model.type[:64]!r}")


def _kinds(parts: list[Part]) -> list[str]:
    return [str(step.get("type"))[:64] for step in parts]


# -- BPE ---------------------------------------------------------------------------------------------------------------


def _byte_level(document: Document, model: Model, tokens: Tokens) -> dict[str, Value]:
    kinds = _kinds(steps(document.normalizer, "normalizers"))
    if not set(kinds) <= {"NFC"}:  # which GGUF leaves out: nearly all texts are composed already
        raise UnsupportedModel(f"GGUF has no word for the normalizer {kinds[0]}")
    merges = f"{PREFIX}merges"
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": name_of(document.pre_tokenizer, model.ignore_merges),
        **tokens.entries(scores=False),
        merges: MetaArray.of(merges, (_merge(*pair) for pair in model.pairs())),
    }


def _merge(left: str, right: str) -> str:
    if " " in left or " " in right:
        raise UnsupportedModel(f"GGUF has no word for the merge {ascii((left, right))[:64]}")
    return f"{left} {right}"


def _visible_spaces(document: Document, model: Model, tokens: Tokens) -> dict[str, Value]:
    """SentencePiece's BPE: merges become scores, the earlier one the higher."""
    prefix = _adds_prefix(document)
    tokens.scores = _scores_of_merges(model, tokens)
    return {
        f"{PREFIX}model": "llama",
        f"{PREFIX}pre": "default",
        **tokens.entries(scores=True),
        f"{PREFIX}add_space_prefix": prefix,
    }


def _scores_of_merges(model: Model, tokens: Tokens) -> list[float]:
    """Of each normal token the place of the first merge that makes it, counted down; no merge makes the last ones."""
    ids, last = model.ids(), -float(len(model.merges))
    scores = [last if kind in (NORMAL, UNUSED) else 0.0 for kind in tokens.types]
    for rank, (left, right) in enumerate(model.pairs()):
        index = ids[left + right]
        if scores[index] == last:
            scores[index] = -float(rank)
    return scores


def _adds_prefix(document: Document) -> bool:
    """Whether a text gets a space before it; UnsupportedModel where more is done to it than making spaces visible."""
    normalizers = steps(document.normalizer, "normalizers")
    pre_tokenizers = steps(document.pre_tokenizer, "pretokenizers")
    for step in (*normalizers, *pre_tokenizers):
        kind = str(step.get("type"))[:64]
        known = (
            (kind == "Prepend" and step.get("prepend") == SPACE)
            or (kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE)
            or (kind == "Split" and step.get("pattern") == {"String": " "})
            or (kind == "Metaspace" and step.get("replacement") == SPACE)
        )
        if not known:
            raise UnsupportedModel(f"GGUF has no word for the step {kind}")
    return any(step["type"] == "Prepend" or _prepends(step) for step in (*normalizers, *pre_tokenizers))


def _prepends(step: Part) -> bool:
    if step["type"] != "Metaspace":
        return False
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    return bool(scheme != "never")


# -- WordPiece and unigram ---------------------------------------------------------------------------------------------


def _word_pieces(document: Document, tokens: Tokens) -> dict[str, Value]:
    normalizer: Part = document.normalizer or {}
    splitter: Part = document.pre_tokenizer or {}
    if normalizer.get("type") != "BertNormalizer" or splitter.get("type") != "BertPreTokenizer":
        raise UnsupportedModel("GGUF has words for WordPiece only after BertNormalizer and BertPreTokenizer")
    lowercase = bool(normalizer.get("lowercase", True))
    strips = normalizer.get("strip_accents")
    return word_piece_entries(tokens, lowercase, lowercase if strips is None else bool(strips))


def _unigram(document: Document, tokens: Tokens) -> dict[str, Value]:
    normalizers = steps(document.normalizer, "normalizers")
    pre_tokenizers = steps(document.pre_tokenizer, "pretokenizers")
    for step in (*normalizers, *pre_tokenizers):
        if step.get("type") not in ("Precompiled", "Strip", "Replace", "Metaspace", "WhitespaceSplit", "Prepend"):
            raise UnsupportedModel(f"GGUF has no word for the step {str(step.get('type'))[:64]}")
    kinds = _kinds([*normalizers, *pre_tokenizers])
    merged = any(_merges_spaces(step) for step in normalizers) or "WhitespaceSplit" in kinds
    found: dict[str, Value] = {
        f"{PREFIX}model": "t5",
        f"{PREFIX}pre": "default",
        **tokens.entries(scores=True),
        f"{PREFIX}add_space_prefix": any(_prepends(step) for step in pre_tokenizers) or "Prepend" in kinds,
        f"{PREFIX}remove_extra_whitespaces": merged,
    }
    charsmap = next((step.get("precompiled_charsmap") for step in normalizers if step["type"] == "Precompiled"), None)
    if charsmap:
        found[f"{PREFIX}precompiled_charsmap"] = _charsmap(charsmap)
    return found


def _merges_spaces(step: Part) -> bool:
    """Whether the step makes one space of many."""
    pattern = step.get("pattern")
    return step.get("type") == "Replace" and isinstance(pattern, dict) and pattern.get("Regex") in (" {2,}", r"\s+")


def _charsmap(encoded: Any) -> MetaArray:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"precompiled_charsmap is not base64: {error}") from None
    return MetaArray.of(f"{PREFIX}precompiled_charsmap", np.frombuffer(raw, np.uint8))
