"""The requests of an encoder's runner. They take turns: each step reads some texts of one of them, side by side."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.batch import failure
from hearthd.engine.channel import Closed
from hearthd.engine.frames import Embed, Embedded, Generate
from hearthd.engine.sequence import RequestError
from hearthd.engine.tokens import Tokenizer, encode_all
from hearthd.engine.vectors import answer

Floats = NDArray[np.float32]

MAKES_NO_TEXT = "this model makes embeddings, not text; ask it at /api/embed"


class Encoder(Protocol):
    """What this needs of a session."""

    hidden_size: int

    def batches(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Floats]]:
        """Which texts a step has read, and their vectors (len(indices), hidden_size), step by step."""


class Encoding:
    """One Embed request: what it asks for, and what of it is done."""

    def __init__(self, request: Embed, texts: list[list[int]]) -> None:
        self.id = request.id
        self._request = request
        self._texts = texts
        self._started_ns = 0
        self._steps: Iterator[tuple[list[int], Floats]] | None = None
        self._vectors = np.zeros((0, 0), np.float32)

    def step(self, encoder: Encoder) -> Embedded | None:
        """Reads some of the texts; the answer where none was left."""
        if self._steps is None:
            self._started_ns = time.monotonic_ns()
            self._vectors = np.zeros((len(self._texts), encoder.hidden_size), np.float32)
            self._steps = encoder.batches(self._texts)
        indices, vectors = next(self._steps, (None, None))
        if indices is not None:
            self._vectors[indices] = vectors
            return None
        num_tokens = sum(map(len, self._texts))
        return answer(self._request, self._vectors, num_tokens, time.monotonic_ns() - self._started_ns)


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
        """Reads some texts of the request whose turn it is; a failure ends that request alone."""
        encoding = self._waiting.popleft()
        try:
            embedded = encoding.step(self._encoder)
        except Closed:
            raise
        except Exception as error:
            self._send(failure(encoding.id, error))
            return
        if embedded is None:
            self._waiting.append(encoding)
        else:
            self._send(embedded)
