"""One request in a runner: its tokens, how far it is, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum

from hearthd.engine.frames import Done, Generate
from hearthd.engine.sampler import Floats, Sampler
from hearthd.engine.stops import StopMatcher
from hearthd.engine.tokens import Detokenizer, Tokenizer
from hearthd.store.variant import VariantInfo

MAX_WINDOWS = 10  # new tokens of one request, in multiples of num_ctx
MAX_EQUAL_PIECES = 30  # equal pieces in a row before a loop is assumed


class Status(Enum):
    """How far a sequence is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


class RequestError(ValueError):
    """The request cannot be served as it is."""


def fitted(ids: list[int], *, num_ctx: int, num_keep: int, truncate: bool) -> list[int]:
    """`ids`, or where they fill the window their first `num_keep` and last ones, about half of the rest.

    The cut leaves num_ctx - max((num_ctx - num_keep) // 2, 1) ids. `num_keep` < 0 keeps as many as fit.
    Raises RequestError where a cut is needed and `truncate` is False.
    """
    if len(ids) < num_ctx:
        return ids
    if not truncate:
        raise RequestError(
            "the prompt is longer than the context length currently available to the model; shorten the prompt, "
            "adjust the context length in settings, or use a model with a longer context length"
        )
    keep = num_ctx - 1 if num_keep < 0 else min(num_keep, num_ctx - 1)
    total = num_ctx - max((num_ctx - keep) // 2, 1)
    return ids[:keep] + ids[len(ids) - (total - keep) :]


class RepeatGuard:
    """Notices a model that says the same piece again and again."""

    __slots__ = ("_count", "_last")

    def __init__(self) -> None:
        self._last = ""
        self._count = 0

    def loops(self, piece: str) -> bool:
        """Whether `piece`, blanks aside, came more than MAX_EQUAL_PIECES times in a row."""
        piece = piece.strip()
        self._count = self._count + 1 if piece == self._last else 1
        self._last = piece
        return self._count > MAX_EQUAL_PIECES


class Sequence:
    """The state of one Generate frame, from waiting to finished; it touches no device."""

    def __init__(self, request: Generate) -> None:
        self.id = request.id
        self.request = request
        self.status = Status.WAITING
        self.prompt: list[int] = []
        self.tokens: list[int] = []  # generated and shown, so without the one that ends the text
        self.chunks: Iterator[int] = iter(())  # the prefill in progress
        self.reason = ""
        self.cached_count = 0
        self._eval_count = 0
        self._texts: list[str] = []
        self._started_ns: int | None = None
        self._evaluated_ns: int | None = None

    def admit(self, tokenizer: Tokenizer, info: VariantInfo, num_ctx: int) -> None:
        """Encodes the prompt and makes ready to generate. Raises RequestError or UnknownToken."""
        request = self.request
        self._started_ns = time.monotonic_ns()
        before = tokenizer.text_of(request.context) if request.context else ""
        ids = tokenizer.encode_within(before + request.prompt, num_ctx)
        if not ids:
            raise RequestError("the prompt is empty")
        num_keep = request.num_keep + info.add_bos if request.num_keep >= 0 else -1
        self.prompt = fitted(ids, num_ctx=num_ctx, num_keep=num_keep, truncate=request.truncate)
        self._num_ctx = num_ctx
        self._end_ids = frozenset(info.eos_ids)
        limit = MAX_WINDOWS * num_ctx
        self._limit = min(request.num_predict, limit) if request.num_predict > 0 else limit
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopMatcher(request.stop)
        self._guard = RepeatGuard()
        self._sampler = Sampler(request.sampling, num_ctx=num_ctx, prompt=self.prompt)

    def begin_prefill(self, chunks: Iterator[int], cached_count: int) -> None:
        """`chunks` evaluates the prompt after its first `cached_count` tokens."""
        self.chunks = chunks
        self.cached_count = cached_count
        self.status = Status.PREFILL

    def begin_decode(self) -> None:
        """The prompt is evaluated."""
        self._evaluated_ns = time.monotonic_ns()
        self.status = Status.DECODE

    def advance(self, logits: Floats) -> str:
        """Chooses the next token from (V,) logits; the text that may now be shown, maybe none."""
        token = self._sampler.choose(logits)
        self._eval_count += 1
        if token in self._end_ids:
            return self._end("stop")
        self.tokens.append(token)
        piece = self._detokenizer.add(token)
        shown = self._stops.feed(piece) if piece else ""
        if self._stops.stopped:
            self.finish("stop")
        elif self._exhausted() or (piece and self._guard.loops(piece)):
            shown += self._end("length")
        if self.request.want_context:
            self._texts.append(shown)
        return shown

    def _exhausted(self) -> bool:
        return self._eval_count >= self._limit or len(self.prompt) + self._eval_count > self._num_ctx

    def _end(self, reason: str) -> str:
        self.finish(reason)
        return self._stops.flush()

    def finish(self, reason: str) -> None:
        """Ends the sequence, for a reason of Done."""
        self.reason = reason
        self.status = Status.FINISHED

    def done(self) -> Done:
        """The last frame. A token that ends the text counts as generated."""
        now_ns = time.monotonic_ns()
        started_ns = now_ns if self._started_ns is None else self._started_ns
        evaluated_ns = now_ns if self._evaluated_ns is None else self._evaluated_ns
        return Done(
            id=self.id,
            reason=self.reason,
            prompt_count=len(self.prompt),
            cached_count=self.cached_count,
            prompt_ns=evaluated_ns - started_ns,
            eval_count=self._eval_count,
            eval_ns=now_ns - evaluated_ns,
            context=self._context() if self.request.want_context else [],
        )

    def _context(self) -> list[int]:
        if self._eval_count and self._stops.stopped:  # the tokens say more than was shown
            return self.prompt + self._tokenizer.encode_plain("".join(self._texts))
        return self.prompt + self.tokens
