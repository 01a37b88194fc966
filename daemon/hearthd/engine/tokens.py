"""Text to token ids and back, from the variant's tokenizer.json."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hearthd.store.variant import VariantInfo

CHARACTERS_PER_TOKEN = 16  # generous: texts have 2 to 6
NEWLINES = ("\u010a", "<0x0A>", "\n")  # how byte-level BPE, SentencePiece and added tokens spell a line feed
SPACE = "\u2581"  # SentencePiece's visible space


class UnknownToken(ValueError):
    """An id outside the vocabulary."""

    def __init__(self, token: int, vocab_size: int, field: str = "context") -> None:
        super().__init__(f"{field}: token id {token} is not below the vocabulary size {vocab_size}")


def _byte_characters() -> dict[str, int]:
    """The 256 visible characters of byte-level BPE (Radford et al. 2019) and the byte each stands for."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


_BYTES = _byte_characters()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:
        return token.encode("utf-8", "replace")


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace(SPACE, " ").encode("utf-8", "replace")


def _mentions(part: Any, type_name: str) -> bool:
    """Whether a step of that type is in a part of tokenizer.json, at any depth."""
    if isinstance(part, dict):
        return part.get("type") == type_name or any(_mentions(value, type_name) for value in part.values())
    return isinstance(part, list) and any(_mentions(value, type_name) for value in part)


class _Steps(msgspec.Struct):
    """tokenizer.json without its vocabulary, which as Python objects takes more room than in its own library."""

    decoder: Any = None


_steps = msgspec.json.Decoder(_Steps)


class EmptyText(ValueError):
    """A text without a token, for a model that begins none with a token of its own."""

    def __init__(self) -> None:
        super().__init__("the input holds an empty text, of which this model can make no vector")


class TextTooLong(ValueError):
    """A text that is to be embedded whole exceeds what the model can read."""

    def __init__(self) -> None:
        super().__init__("the input length exceeds the context length")


class Detokenizer:
    """Turns tokens into text one by one; keeps at most the three bytes of an unfinished character.

    A character that generation leaves unfinished is never shown.
    """

    __slots__ = ("_decoder", "_token_bytes", "_visible")

    def __init__(self, tokenizer: Tokenizer, visible: Iterable[str] = ()) -> None:
        """`visible` are the texts of special tokens that are printed; all others print nothing."""
        self._token_bytes = tokenizer.token_bytes
        self._visible = tokenizer.special(visible)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The text completed by `token`, maybe none; bytes that cannot be UTF-8 become U+FFFD."""
        return self._decoder.decode(self._visible.get(token) or self._token_bytes(token))


class Tokenizer:
    """The vocabulary of one model. Safe to use from several threads."""

    def __init__(self, path: Path, info: VariantInfo) -> None:
        """Reads tokenizer.json at `path`. Raises ValueError naming the file where it is damaged."""
        from tokenizers import Tokenizer as TokenizerFile  # here, for the session is opened meanwhile

        try:
            content = path.read_bytes()
            steps = _steps.decode(content)
            self._file = TokenizerFile.from_buffer(content)
        except Exception as error:  # the Rust library raises bare Exception
            raise ValueError(f"{path}: not a readable tokenizer.json: {error}") from error
        self._bos_id = info.bos_id if info.add_bos else None
        self._eos_id = info.eos_ids[0] if info.add_eos and info.eos_ids else None
        self._opening = [token for token in (info.bos_id, *info.eos_ids) if token is not None][:1]
        self._num_framing: int = self._file.num_special_tokens_to_add(False)  # by the file's own post-processor
        self._vocab_size: int = self._file.get_vocab_size(with_added_tokens=True)
        self._added: dict[int, Any] = self._file.get_added_tokens_decoder()
        self._text_of = _byte_level if _mentions(steps.decoder, "ByteLevel") else _sentencepiece
        self._cache: dict[int, bytes] = {}
        self._last: tuple[str, int, list[int]] = ("", 0, [])  # what encode_within was asked last, and its answer
        self.newline_ids = self._printing(b"\n", NEWLINES)  # ids of the tokens that print a line feed alone
        special = next((added.content for added in self._added.values() if added.special), "")
        self._adds_space = self._prefixes_space("")
        self._adds_space_after_special = self._prefixes_space(special)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, special-token text recognised, with BOS and EOS where the model adds them.

        A text that already begins with the BOS token gets no second one.
        """
        return self._framed(self.encode_plain(text))

    def _framed(self, ids: list[int]) -> list[int]:
        if self._bos_id is not None and ids[:1] != [self._bos_id]:
            ids.insert(0, self._bos_id)
        if self._eos_id is not None:
            ids.append(self._eos_id)
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """The ids of `text` alone."""
        # the batch form leaves out offsets, which cost half as much again in time and memory
        return list(self._file.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode_within(self, text: str, num_ctx: int) -> list[int]:
        """As `encode` where a window of `num_ctx` tokens can hold the text; bounded memory where it cannot.

        Of a text many windows long only the ends are encoded, if each alone gives more than `num_ctx` ids: the
        first `num_ctx` and the last `num_ctx` are then those of the whole text. A prompt is counted before it is
        asked, so the same text again costs nothing.
        """
        known, window, ids = self._last
        if (text, num_ctx) != (known, window):
            ids = self._encoded_within(text, num_ctx)
            self._last = (text, num_ctx, ids)
        return list(ids)

    def _encoded_within(self, text: str, num_ctx: int) -> list[int]:
        end = CHARACTERS_PER_TOKEN * num_ctx
        if len(text) > 2 * end:
            first, last = self.encode_plain(text[:end]), self.encode_plain(text[-end:])
            if min(len(first), len(last)) > num_ctx:
                return self._framed(first + last)
        return self.encode(text)

    def encode_text(self, text: str, num_ctx: int, *, truncate: bool) -> list[int]:
        """The ids of a text that is read for its meaning, framed as the model wants it, at most `num_ctx`.

        A longer one loses its end, not its frame; without `truncate` it raises TextTooLong. Memory is bounded.
        """
        end = CHARACTERS_PER_TOKEN * num_ctx
        if len(text) > 2 * end:
            ids = self._framed_within(text[:end], num_ctx)
            if ids is not None:
                return _unless_cut(ids, truncate)
        whole = self._framed_whole(text)
        if len(whole) <= num_ctx:
            return whole
        return _unless_cut(self._framed_within(text, num_ctx) or whole[:num_ctx], truncate)

    def _framed_whole(self, text: str) -> list[int]:
        if not self._num_framing:
            return self.encode(text)
        return list(self._file.encode_batch_fast([text], add_special_tokens=True)[0].ids)

    def _framed_within(self, text: str, num_ctx: int) -> list[int] | None:
        """`num_ctx` ids, frame included, where the text has so many; else None."""
        encoding = self._file.encode_batch_fast([text], add_special_tokens=False)[0]
        num_frame = self._num_framing or len(self._framed(list(encoding.ids))) - len(encoding.ids)
        if len(encoding.ids) + num_frame < num_ctx:
            return None
        encoding.truncate(max(0, num_ctx - num_frame))
        if self._num_framing:
            encoding = self._file.post_process(encoding, add_special_tokens=True)
            return list(encoding.ids)
        return self._framed(list(encoding.ids))

    @property
    def opening(self) -> list[int]:
        """What stands for a text without any token; [] where the model has no such token."""
        return self._opening

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises UnknownToken for an id outside the vocabulary."""
        for token in ids:
            if not 0 <= token < self._vocab_size:
                raise UnknownToken(token, self._vocab_size, "input")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` prints; none for special tokens and ids without a token."""
        known = self._cache.get(token)
        if known is None:
            known = self._cache[token] = self._printed(token)
        return known

    def _printed(self, token: int) -> bytes:
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special else added.content.encode("utf-8", "replace")
        text = self._file.id_to_token(token)
        return b"" if text is None else self._text_of(text)

    def _printing(self, content: bytes, spellings: Iterable[str]) -> tuple[int, ...]:
        ids = map(self._file.token_to_id, spellings)
        return tuple(token for token in ids if token is not None and self.token_bytes(token) == content)

    def spelt(self, token: int) -> bytes:
        """As `token_bytes`, but special tokens are spelt out."""
        added = self._added.get(token)
        return self.token_bytes(token) if added is None else added.content.encode("utf-8", "replace")

    def special(self, texts: Iterable[str]) -> dict[int, bytes]:
        """Ids of the special tokens among `texts`, each with its bytes; a text that is none is left out."""
        known = (self._file.token_to_id(text) for text in texts)
        ids = [token for token in known if token is not None]
        return {token: self.spelt(token) for token in ids if self._is_special(token)}

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens spelt out, such that encoding it gives them again.

        Raises UnknownToken for an id outside the vocabulary.
        """
        self._check(ids)
        parts: list[bytes] = []
        adds_space = self._adds_space
        for token in ids:
            shown = self.spelt(token)
            parts.append(shown[1:] if adds_space and shown.startswith(b" ") else shown)
            adds_space = self._adds_space_after_special and self._is_special(token)
        return b"".join(parts).decode("utf-8", "replace")

    def _is_special(self, token: int) -> bool:
        added = self._added.get(token)
        return added is not None and bool(added.special)

    def _prefixes_space(self, before: str) -> bool:
        """Whether this vocabulary puts a space of its own between `before` and the text after it."""
        ids = self.encode_plain(before + "x")
        return b"".join(map(self.token_bytes, ids)).startswith(b" ")

    def _check(self, ids: Iterable[int]) -> None:
        for token in ids:
            if not 0 <= token < self._vocab_size:
                raise UnknownToken(token, self._vocab_size)


def _unless_cut(ids: list[int], truncate: bool) -> list[int]:
    if not truncate:
        raise TextTooLong
    return ids


def encode_all(
    tokenizer: Tokenizer, texts: Iterable[str | list[int]], num_ctx: int, *, truncate: bool
) -> list[list[int]]:
    """The ids of texts that are to become vectors, as `Tokenizer.encode_text` gives them; ids are taken as they are.

    Raises TextTooLong, UnknownToken, and EmptyText.
    """
    return [_encoded(tokenizer, text, num_ctx, truncate) for text in texts]


def _encoded(tokenizer: Tokenizer, text: str | list[int], num_ctx: int, truncate: bool) -> list[int]:
    if isinstance(text, str):
        ids = tokenizer.encode_text(text, num_ctx, truncate=truncate)
    else:
        tokenizer.check_ids(text)
        ids = text if len(text) <= num_ctx else _unless_cut(text[:num_ctx], truncate)
    if ids or tokenizer.opening:
        return ids or tokenizer.opening
    raise EmptyText
