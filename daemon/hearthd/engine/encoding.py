"""The requests of an encoder's runner.

They take turns: each step reads some texts of one of them, side by side; small ones that wait at the same time share
a step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.batch import failure
from hearthd.engine.frames import Embed, Embedded, Generate
from hearthd.engine.sequence import RequestError
from hearthd.engine.tokens import Tokenizer, encode_all
from hearthd.engine.vectors import answer

Floats = NDArray[np.float32]

MAKES_NO_TEXT = "this model makes embeddings, not text; ask it at /api/embed"


class Encoder(Protocol):
    """What this needs of a session."""

    hidden_size: int
    num_batch: int  # tokens that are best evaluated at once

    def vectors(self, texts: Sequence[Sequence[int]]) -> Floats:
        """(len(texts), hidden_size): the texts' vectors in their order."""

    def batches(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Floats]]:
        """Which texts a step has read, and their vectors (len(indices), hidden_size), step by step."""


class Encoding:
    """One Embed request: what it asks for, and what of it is done."""

    def __init__(self, request: Embed, texts: list[list[int]]) -> None:
        self.id = request.id
        self.texts = texts
        self.num_tokens = sum(map(len, texts))
        self.shares = True  # it may be read together with others
        self._request = request
        self._started_ns = 0
        self._steps: Iterator[tuple[list[int], Floats]] | None = None
        self._vectors = np.zeros((0, 0), np.float32)

    def step(self, encoder: Encoder) -> Embedded | None:
        """Reads some of the texts; the answer where none was left."""
        if self._steps is None:
            self.shares = False
            self._started_ns = time.monotonic_ns()
            self._vectors = np.zeros((len(self.texts), encoder.hidden_size), np.float32)
            self._steps = encoder.batches(self.texts)
        indices, vectors = next(self._steps, (None, None))
        if indices is None:
            return self.answer(self._vectors, self._started_ns)
        self._vectors[indices] = vectors
        return None

    def answer(self, vectors: Floats, started_ns: int) -> Embedded:
        """The frame, with the vectors (len(texts), hidden_size) of all texts. Raises NonFiniteVector."""
        return answer(self._request, vectors, self.num_tokens, time.monotonic_ns() - started_ns)


class EncoderPreparation:
    """From a request to its tokens; any thread may use it. Texts are cut to `num_ctx` tokens."""

    def __init__(self, tokenizer: Tokenizer, num_ctx: int) -> None:
        self._tokenizer = tokenizer
        self._num_ctx = num_ctx

    def prepared(self, request: Generate | Embed) -> Encoding:
        """The texts' tokens. Raises RequestError, TextTooLong or UnknownToken."""
        if isinstance(request, Generate):
            raise RequestError(MAKES_NO_TEXT)
        texts = encode_all(self._tokenizer, request.texts, self._num_ctx, truncate=request.truncate)
        return Encoding(request, texts)


class Encodings:
    """Those under way. One thread calls it; `send` gets the answers."""

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, num_ctx: int, send: Callable[..., None]) -> None:
        self._encoder = encoder
        self._send = send
        self._waiting: deque[Encoding] = deque()
        self.preparation = EncoderPreparation(tokenizer, num_ctx)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting

    def enter(self, encoding: Encoding) -> None:
        """Queues a prepared request."""
        self._waiting.append(encoding)

    def cancel(self, request_id: int) -> None:
        """Ends the request at once; one that is unknown or has ended is left alone."""
        self._waiting = deque(encoding for encoding in self._waiting if encoding.id != request_id)

    def trim(self) -> None:
        """Nothing is kept from one request to the next."""

    def save(self) -> None:
        """Nothing is kept from one life to the next."""

    def step(self) -> None:
        """Reads some texts of the request whose turn it is, or all texts of several small ones at once.

        A failure ends one request alone.
        """
        first = self._waiting.popleft()
        if company := self._company(first):
            self._read_together([first, *company])
        else:
            self._read(first)

    def _company(self, first: Encoding) -> list[Encoding]:
        """Requests that fill a step which the first one leaves empty; they wait no more."""
        num_tokens, company = first.num_tokens, []
        for encoding in list(self._waiting) if first.shares else ():
            if encoding.shares and num_tokens + encoding.num_tokens <= self._encoder.num_batch:
                num_tokens += encoding.num_tokens
                company.append(encoding)
                self._waiting.remove(encoding)
        return company

    def _read_together(self, encodings: list[Encoding]) -> None:
        started_ns = time.monotonic_ns()
        try:
            vectors = self._encoder.vectors([text for encoding in encodings for text in encoding.texts])
        except Exception:  # whose fault it is shows when each is read alone
            for encoding in encodings:
                encoding.shares = False
            self._waiting.extend(encodings)
            return
        start = 0
        for encoding in encodings:
            stop = start + len(encoding.texts)
            self._answer(encoding, partial(encoding.answer, vectors[start:stop], started_ns))
            start = stop

    def _read(self, encoding: Encoding) -> None:
        if not self._answer(encoding, partial(encoding.step, self._encoder)):
            self._waiting.append(encoding)

    def _answer(self, encoding: Encoding, work: Callable[[], Embedded | None]) -> bool:
        """Whether the request has come to its end, which `work` may bring."""
        try:
            embedded = work()
        except Exception as error:
            self._send(failure(encoding.id, error))
            return True
        if embedded is not None:
            self._send(embedded)
        return embedded is not None
