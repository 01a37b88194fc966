"""A vocabulary in GGUF's words: tokens, types, special ids, as `tokenizer.ggml.*` says them."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn, Protocol, TypeVar, overload

import msgspec
import numpy as np

from hearth_export.errors import BadCheckpoint
from hearth_export.readers.values import MetaArray, Value

T = TypeVar("T", str, int, float, bool, MetaArray)

MAX_TOKENS = 1 << 21
MAX_TOKEN_BYTES = 1 << 27  # of all tokens, or all merges, together
SPACE = "\u2581"  # SentencePiece's visible space

# token types, `enum llama_token_type` in llama.h
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPECIAL = (CONTROL, USER_DEFINED, UNKNOWN)  # types whose text is parsed as the token

# texts that end a turn whatever the metadata calls them; the list is llama.cpp's (`special_eog_ids`, llama-vocab.cpp)
END_TOKENS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "[e~[", "<｜end▁of▁sentence｜>", "<|fim_pad|>",
    "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>",
    "<|file_sep|>",
))  # fmt: skip
# control tokens that do not end a turn, and that converters are known to have left as normal ones
FILL_TOKENS = frozenset((
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
    "<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>",
    "▁<MID>", "<|code_middle|>", "<|middle|>",
))  # fmt: skip
# markup that ordinary text holds too: special only where the file says so
PLAIN_TEXTS = frozenset({"</s>"})
END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
# vocabularies with all of one of these have an end token that closes a message, or old markup, and no turn
NOT_ENDS = (
    ({"<|return|>", "<|call|>", "<|end|>"}, "<|end|>"),
    ({"<|calls|>", "<|flush|>", "<|end|>"}, "<|end|>"),
    ({"<|tool_response>", "</s>"}, "</s>"),
)


class Keys(Protocol):
    """Where metadata comes from: a checkpoint, or `Entries`."""

    @property
    def path(self) -> Path: ...

    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: None = None) -> T | None: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None: ...

    def require(self, key: str, kind: type[T]) -> T: ...


class Entries:
    """Metadata that lies in memory, read as a checkpoint's."""

    def __init__(self, path: Path, entries: dict[str, Value]) -> None:
        self.path = path
        self.entries = entries

    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: None = None) -> T | None: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        value = self.entries.get(key)
        if value is None:
            return default
        if type(value) is not kind:
            raise BadCheckpoint(f"{self.path}: {key} is of type {type(value).__name__}, not {kind.__name__}")
        return value

    def require(self, key: str, kind: type[T]) -> T:
        value = self.get(key, kind)
        if value is None:
            raise BadCheckpoint(f"{self.path}: {key} is missing")
        return value


class Vocabulary(msgspec.Struct, frozen=True):
    """Tokens by id, with their types as llama.cpp sees them after its corrections."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]


def bad(keys: Keys, field: str, why: str) -> NoReturn:
    raise BadCheckpoint(f"{keys.path}: tokenizer.ggml.{field}: {why}")


def strings(keys: Keys, field: str) -> MetaArray:
    """An array of strings that is not absurdly long. BadCheckpoint where it is missing."""
    array = keys.require(f"tokenizer.ggml.{field}", MetaArray)
    if array.element != "string":
        bad(keys, field, f"an array of {array.element} where strings are expected")
    return array


def numbers(keys: Keys, field: str, num_tokens: int) -> list[float] | None:
    """One number a token, or None where the file has none."""
    array = keys.get(f"tokenizer.ggml.{field}", MetaArray)
    if array is None:
        return None
    if array.element == "string":
        bad(keys, field, "an array of strings where numbers are expected")
    if len(array) != num_tokens:
        bad(keys, field, f"{len(array)} entries for {num_tokens} tokens")
    values = np.asarray(array.numpy(), np.float64)
    if not np.isfinite(values).all():
        bad(keys, field, f"{values[~np.isfinite(values)][0]} is not a number")
    return [float(value) for value in values]


def read_vocabulary(keys: Keys) -> Vocabulary:
    """The tokens of the file. BadCheckpoint where two have the same text or one is not UTF-8."""
    array = strings(keys, "tokens")
    if not 0 < len(array) <= MAX_TOKENS:
        bad(keys, "tokens", f"{len(array)} tokens; 1 to {MAX_TOKENS} are possible")
    ids: dict[str, int] = {}
    tokens: list[str] = []
    num_bytes = 0
    for index, text in enumerate(array.strings()):
        num_bytes += len(text)
        if num_bytes > MAX_TOKEN_BYTES:
            bad(keys, "tokens", f"the first {index + 1} tokens have more than {MAX_TOKEN_BYTES} characters")
        tokens.append(text or f"[EMPTY_{index}]")
    for index, text in enumerate(tokens):
        if ids.setdefault(text, index) != index:
            bad(keys, "tokens", f"ids {ids[text]} and {index} are both {ascii(text)[:64]}")
        if not text.isascii() and any("\udc80" <= char <= "\udcff" for char in text):
            bad(keys, "tokens", f"token {index}, {ascii(text)[:64]}, is not UTF-8")
    types = numbers(keys, "token_type", len(tokens)) or [NORMAL] * len(tokens)
    return Vocabulary(tokens, _corrected(tokens, [int(value) for value in types]), ids)


def _corrected(tokens: list[str], types: list[int]) -> list[int]:
    """Well-known control tokens that a converter left as normal ones become control tokens, as in llama.cpp."""
    known = (END_TOKENS | FILL_TOKENS) - PLAIN_TEXTS
    return [CONTROL if kind == NORMAL and text in known else kind for text, kind in zip(tokens, types, strict=True)]


def token_id(keys: Keys, num_tokens: int, name: str, default: int | None) -> int | None:
    """`tokenizer.ggml.{name}_token_id`; None where the file says that there is none, or the default is no token."""
    field = f"{name}_token_id"
    value = keys.get(f"tokenizer.ggml.{field}", int)
    if value is None:
        return default if default is not None and default < num_tokens else None
    if value in (0xFFFFFFFF, -1):  # how some converters write "none"
        return None
    if not 0 <= value < num_tokens:
        bad(keys, field, f"{value} is not one of the {num_tokens} tokens")
    return value


def adds(keys: Keys, name: str, token: int | None, default: bool) -> bool:
    """`tokenizer.ggml.add_{name}_token`. BadCheckpoint where it is true and there is no such token."""
    field = f"add_{name}_token"
    asked = keys.get(f"tokenizer.ggml.{field}", bool)
    if asked and token is None:
        bad(keys, field, f"True, but the file names no {name} token")
    return (default if asked is None else asked) and token is not None


def end_ids(
    keys: Keys, vocabulary: Vocabulary, bos_id: int | None, eos_id: int | None, *, first: int | None
) -> list[int]:
    """Every id that ends a generation: those that the metadata names, and the special ones with a well-known text.

    Ascending, but for `first`, which leads where it is one of them. Never bos unless bos is eos.
    """
    num_tokens = len(vocabulary.tokens)
    named = {token_id(keys, num_tokens, name, None) for name in END_KEYS} | {eos_id}
    special = {
        text: index
        for text in END_TOKENS
        if (index := vocabulary.ids.get(text)) is not None and vocabulary.types[index] in (CONTROL, USER_DEFINED)
    }
    return ordered_ends({index for index in named if index is not None}, special, bos_id, eos_id, first)


def ordered_ends(
    named: set[int], special: dict[str, int], bos_id: int | None, eos_id: int | None, first: int | None
) -> list[int]:
    """As `end_ids`, of the ids that a checkpoint names and the special tokens with a well-known text."""
    ends = named | set(special.values())
    if bos_id != eos_id and bos_id is not None:
        ends.discard(bos_id)
    for texts, not_end in NOT_ENDS:
        if texts <= special.keys() and (not_end != "</s>" or special[not_end] not in named):
            ends.discard(special[not_end])
    return sorted(ends, key=lambda index: (index != first, index))
