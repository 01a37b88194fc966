"""What the endpoints that make vectors have in common: ask the runner in parts, answer in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from hearthd.api import opening
from hearthd.api.exchange import JSON, Exchange
from hearthd.api.floats import FLOAT_BYTES
from hearthd.api.opening import Opened
from hearthd.api.services import Services
from hearthd.engine.frames import Embed
from hearthd.errors import BadRequest, ModelNotFound, NotFound
from hearthd.scheduler.runner import Runner

Text = str | list[int]

PART_TEXTS = 256  # of one frame: others may come between two
PART_CHARS = 1 << 20
MAX_VECTOR_BYTES = 64 << 20  # of one answer
PIECE_BYTES = 64 << 10


class Wanted(msgspec.Struct, frozen=True):
    """Texts, and what their vectors shall be like."""

    texts: list[Text]
    truncate: bool = True
    normalize: bool = True
    dimensions: int = 0


class Vectors:
    """One a text, in the order of the texts; float32, little-endian."""

    def __init__(self, num_texts: int) -> None:
        self.num_tokens = 0  # of all texts
        self._vectors = [memoryview(b"")] * num_texts

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self._vectors)

    def fill(self, places: list[int], content: bytes, size: int) -> None:
        """Vectors of `size` values each, one after the other, for the texts at `places`."""
        whole, num_bytes = memoryview(content), size * FLOAT_BYTES
        for number, place in enumerate(places):
            self._vectors[place] = whole[number * num_bytes : (number + 1) * num_bytes]


def open_model(services: Services, asked: str) -> Opened:
    """As opening.open_model, with the sentence of these endpoints for a model that is not here."""
    try:
        return opening.open_model(services, asked)
    except ModelNotFound:
        if not asked:
            raise
        raise NotFound(f'model "{asked}" not found, try pulling it first') from None


def texts_of(value: Any, *, ids: bool = False) -> list[Text] | None:
    """The texts of an `input`: a string, or a list of strings; None where there is none.

    With `ids` also token ids, or a list of lists of them. Raises BadRequest for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if ids and value and all(map(_is_id, value)):
            return [value]
        if all(isinstance(text, str) or (ids and _are_ids(text)) for text in value):
            return value
    raise BadRequest("invalid input type")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= opening.MAX_TOKEN_ID


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


async def embedded(runner: Runner, wanted: Wanted) -> Vectors:
    """The vectors, asked for in parts, so that other requests come between. Raises HearthError."""
    texts = wanted.texts
    vectors = Vectors(len(texts))
    for part in parts(texts):
        request = Embed(0, [texts[place] for place in part], wanted.truncate, wanted.normalize, wanted.dimensions)
        answer = await runner.embed(request)
        if len(texts) * answer.size * FLOAT_BYTES > MAX_VECTOR_BYTES:
            most = MAX_VECTOR_BYTES // (answer.size * FLOAT_BYTES)
            raise BadRequest(f"the input has {len(texts)} texts, at most {most} are embedded at once; send it in parts")
        vectors.fill(part, answer.vectors, answer.size)
        vectors.num_tokens += answer.prompt_count
    return vectors


def parts(texts: list[Text]) -> Iterator[list[int]]:
    """The places of the texts of each frame. Of many, those of like length go together: they fill steps better."""
    order: Iterable[int] = range(len(texts))
    if len(texts) > PART_TEXTS:
        order = sorted(order, key=lambda place: len(texts[place]))
    part: list[int] = []
    num_chars = 0
    for place in order:
        length = len(texts[place])
        if part and (len(part) == PART_TEXTS or num_chars + length > PART_CHARS):
            yield part
            part, num_chars = [], 0
        part.append(place)
        num_chars += length
    if part:
        yield part


async def answer(exchange: Exchange, pieces: Iterable[bytes]) -> None:
    """JSON in pieces: at once where it is short, else as the client reads it, and others get their turn between."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= PIECE_BYTES:
            if not exchange.started:
                await exchange.start(200, (b"content-type", JSON))
            await exchange.write(bytes(held))
            held.clear()
            await asyncio.sleep(0)
    if exchange.started:
        await exchange.end(bytes(held))
    else:
        await exchange.answer(200, bytes(held), JSON)
