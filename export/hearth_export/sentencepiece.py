"""A SentencePiece model file (tokenizer.model), read without the library.

The format is Protocol Buffers; its messages are ModelProto, TrainerSpec and NormalizerSpec of sentencepiece's
src/sentencepiece_model.proto, of which only the fields that tokenization needs are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from hearth_export.tokenizer_keys import BYTE, MAX_TOKENS, NORMAL

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType


class Piece(msgspec.Struct, frozen=True):
    """A token. Its types have the numbers of GGUF's token types."""

    text: str
    score: float
    type: int


class SentencePiece(msgspec.Struct, frozen=True):
    """What a model file says. The ids are -1 where there is no such token."""

    pieces: list[Piece]
    model_type: int
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    treat_whitespace_as_suffix: bool


def read_sentencepiece(raw: bytes) -> SentencePiece:
    """ValueError tells where the file is truncated or damaged."""
    pieces: list[Piece] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    charsmap = b""
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value, len(pieces)))
        elif number == 2 and isinstance(value, bytes):
            trainer = {field: item for field, item in _fields(value) if isinstance(item, int)}
        elif number == 3 and isinstance(value, bytes):
            normalizer = {field: item for field, item in _fields(value) if isinstance(item, int)}
            charsmap = next((item for field, item in _fields(value) if field == 2 and isinstance(item, bytes)), b"")
        if len(pieces) > MAX_TOKENS:
            raise ValueError(f"more than {MAX_TOKENS} pieces")
    if not pieces:
        raise ValueError("no pieces: this is no SentencePiece model")
    return SentencePiece(
        pieces=pieces,
        model_type=trainer.get(3, UNIGRAM),
        unk_id=_signed(trainer.get(40, 0)),
        bos_id=_signed(trainer.get(41, 1)),
        eos_id=_signed(trainer.get(42, 2)),
        pad_id=_signed(trainer.get(43, -1)),
        charsmap=charsmap,
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        treat_whitespace_as_suffix=bool(trainer.get(24, 0)),
    )


def _piece(raw: bytes, index: int) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"piece {index} is not UTF-8") from None
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not NORMAL <= kind <= BYTE:
        raise ValueError(f"piece {index} has the type {kind}")
    return Piece(text, score, kind)


def _signed(value: int) -> int:
    """An int32 as its 64 bits on the wire give it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(raw: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a message in their order: varints as int, 32 bits as float, what has a length as bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value
        elif wire == 2:
            size, at = _varint(raw, at)
            if size > len(raw) - at:
                raise ValueError(f"{size} bytes at offset {at} of {len(raw)}: it is truncated or damaged")
            yield tag >> 3, raw[at : at + size]
            at += size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if size > len(raw) - at:
                raise ValueError(f"a number at offset {at} of {len(raw)}: it is truncated or damaged")
            if wire == 5:
                yield tag >> 3, float(struct.unpack_from("<f", raw, at)[0])
            at += size
        else:
            raise ValueError(f"wire type {wire} at offset {at}: it is damaged")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("it ends inside a number: it is truncated")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError(f"a number of more than 64 bits at offset {at}: it is damaged")
