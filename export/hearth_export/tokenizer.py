"""A checkpoint's vocabulary -> tokenizer.json for the `tokenizers` library.

From GGUF the ids are those that llama.cpp gives. Text of control, user-defined and unknown tokens is always parsed as
the token, longest match first, as llama.cpp does with parse_special. Where two such texts overlap in the input without
one holding the other, the leftmost wins here and the longest there; no known vocabulary has such a pair.
"""

from __future__ import annotations

import msgspec

from hearth_export.checkpoint import Checkpoint
from hearth_export.repository_files import TOKENIZER, RepositoryFiles
from hearth_export.repository_tokenizer import Document, load_marked, read_document
from hearth_export.repository_vocabulary import vocabulary_of_files
from hearth_export.tokenizer_document import Part, added_token, document, template
from hearth_export.tokenizer_families import Family, family_of
from hearth_export.tokenizer_keys import (
    END_TOKENS,
    SPECIAL,
    USER_DEFINED,
    Entries,
    Keys,
    Vocabulary,
    adds,
    end_ids,
    ordered_ends,
    read_vocabulary,
    token_id,
)


class TokenizerFiles(msgspec.Struct, frozen=True):
    """What a variant needs to turn text into ids and back."""

    json: bytes  # a Hugging Face tokenizer.json
    num_tokens: int
    bos_id: int | None
    eos_ids: list[
        int
    ]  # every id that ends a generation; the one that add_eos adds first, then ascending; bos only if eos
    add_bos: bool  # put bos before a prompt that does not start with it
    add_eos: bool
    bos_token: str  # text of bos for the chat template; "" where there is none
    eos_token: str
    chat_template: str | None


def build(checkpoint: Checkpoint) -> TokenizerFiles:
    """The tokenizer of the checkpoint.

    Raises UnsupportedModel for a tokenizer model or pre-tokenizer that is not known and BadCheckpoint for a vocabulary
    that contradicts itself; both name file, field and value.
    """
    if checkpoint.format == "gguf":
        return build_from_keys(checkpoint)
    files = RepositoryFiles(checkpoint)
    raw = files.read_file(TOKENIZER)
    if raw is None:
        return build_from_keys(Entries(files.path, vocabulary_of_files(files)))
    return build_from_document(files, read_document(files, raw))


def build_from_document(files: RepositoryFiles, document: Document) -> TokenizerFiles:
    """As `build`, of a repository with a tokenizer.json."""
    loaded, marks = load_marked(files, document)
    special = {token["content"]: token["id"] for token in document.added_tokens if token["content"] in END_TOKENS}
    ends = files.end_ids(loaded.num_tokens) | ({marks.eos_id} if marks.eos_id is not None else set())
    return TokenizerFiles(
        json=msgspec.json.encode(loaded.document),
        num_tokens=loaded.num_tokens,
        bos_id=marks.bos_id,
        eos_ids=ordered_ends(ends, special, marks.bos_id, marks.eos_id, marks.eos_id if marks.add_eos else None),
        add_bos=marks.add_bos,
        add_eos=marks.add_eos,
        bos_token=files.text_of("bos_token") or loaded.text_of(marks.bos_id),
        eos_token=files.text_of("eos_token") or loaded.text_of(marks.eos_id),
        chat_template=files.chat_template(),
    )


def build_from_keys(keys: Keys) -> TokenizerFiles:
    """As `build`, of `tokenizer.ggml.*` and `tokenizer.chat_template`."""
    vocabulary = read_vocabulary(keys)
    family = family_of(keys, vocabulary)
    num_tokens = len(vocabulary.tokens)
    bos_id = _first_id(keys, num_tokens, family)
    eos_id = _last_id(keys, num_tokens, family)
    add_bos = adds(keys, "bos", bos_id, family.add_bos) or (family.always_adds and bos_id is not None)
    add_eos = adds(keys, "eos", eos_id, family.add_eos) or (family.always_adds and family.add_eos)
    return TokenizerFiles(
        json=_document(keys, vocabulary, family, bos_id if add_bos else None, eos_id if add_eos else None),
        num_tokens=num_tokens,
        bos_id=bos_id,
        eos_ids=end_ids(keys, vocabulary, bos_id, eos_id, first=eos_id if add_eos else None),
        add_bos=add_bos,
        add_eos=add_eos,
        bos_token="" if bos_id is None else family.tokens[bos_id],
        eos_token="" if eos_id is None else family.tokens[eos_id],
        chat_template=keys.get("tokenizer.chat_template", str),
    )


def _first_id(keys: Keys, num_tokens: int, family: Family) -> int | None:
    return token_id(keys, num_tokens, "bos", family.bos_id)


def _last_id(keys: Keys, num_tokens: int, family: Family) -> int | None:
    """Of a model that always closes its texts the token that does, whatever else the file calls its end."""
    return family.eos_id if family.always_adds and family.add_eos else token_id(keys, num_tokens, "eos", family.eos_id)


def _document(keys: Keys, vocabulary: Vocabulary, family: Family, bos_id: int | None, eos_id: int | None) -> bytes:
    return document(
        added_tokens=_added_tokens(keys, vocabulary, family),
        normalizer=family.normalizer,
        pre_tokenizer=family.pre_tokenizer,
        post_processor=template(
            *({} if index is None else {family.tokens[index]: index} for index in (bos_id, eos_id)),
        ),
        decoder=family.decoder,
        model=family.model,
    )


def _added_tokens(keys: Keys, vocabulary: Vocabulary, family: Family) -> list[Part]:
    strips_right = _strips_right(keys)
    mask = _mask_that_strips_left(keys)
    return [
        added_token(
            index,
            text,
            special=kind != USER_DEFINED,
            strips_left=text == mask,
            strips_right=strips_right and text not in ("<unk>", "<s>", "<|endoftext|>"),
        )
        for index, (text, kind) in enumerate(zip(family.tokens, vocabulary.types, strict=True))
        if kind in SPECIAL
    ]


def _strips_right(keys: Keys) -> bool:
    """Phi-3's special tokens swallow the spaces after them; only the model's name tells (llama.cpp does the same)."""
    name = keys.get("general.name", str, "").lower()
    return "phi-3" in name or "phi3" in name


def _mask_that_strips_left(keys: Keys) -> str:
    """The mask token that swallows the spaces before it; "" where none does (llama.cpp goes by the same names)."""
    pre = keys.get("tokenizer.ggml.pre", str, "")
    architecture = keys.get("general.architecture", str, "")
    if pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code") or architecture in ("nomic-bert-moe", "jina-bert-v3"):
        return "<mask>"
    return "[MASK]" if "modern-bert" in keys.get("general.name", str, "").lower() else ""
