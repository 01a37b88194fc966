"""One request in a runner: its tokens, how far it is, and when it ends."""

from __future__ import annotations

import time
from enum import Enum
from typing import Protocol

from hearthd.engine.frames import Done, Generate, Logprob, Piece
from hearthd.engine.guard import RepeatGuard
from hearthd.engine.logprobs import logprob_of
from hearthd.engine.sampler import Floats, Sampler
from hearthd.engine.stops import StopMatcher
from hearthd.engine.tokens import Detokenizer, Tokenizer
from hearthd.engine.window import fitted, num_kept
from hearthd.store.variant import VariantInfo

MAX_WINDOWS = 10  # new tokens of one request, in multiples of num_ctx


class Status(Enum):
    """How far a sequence is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"


class RequestError(ValueError):
    """The request cannot be served as it is."""


class Constraint(Protocol):
    """Follows the tokens of one answer and says which may come next."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete: only its end may follow."""

    def apply(self, logits: Floats) -> Floats:
        """A row (V,) in which forbidden tokens are -inf; `logits` stays as it is."""

    def accept(self, token: int) -> None:
        """`token` was chosen, and does not end the answer."""


class Sequence:
    """The state of one Generate frame, from waiting to finished; it touches no device."""

    def __init__(self, request: Generate) -> None:
        self.id = request.id
        self.request = request
        self.status = Status.WAITING
        self.prompt: list[int] = []
        self.tokens: list[int] = []  # generated and shown, so without the one that ends the text
        self.reason = ""
        self.cached_count = 0
        self.kept = 0  # tokens that stay at the front when the window is full
        self._eval_count = 0
        self._texts: list[str] = []
        self._started_ns: int | None = None
        self._evaluated_ns: int | None = None

    @property
    def reproducible(self) -> bool:
        """Whether the same request must give the same text, whatever ran before."""
        sampling = self.request.sampling
        return sampling.temperature <= 0 or sampling.seed != -1

    def prepare(
        self, tokenizer: Tokenizer, info: VariantInfo, *, num_ctx: int, shifts: bool, constraint: Constraint | None
    ) -> None:
        """Encodes the prompt and makes ready to generate.

        `shifts` says whether the device can drop tokens of a full window. Raises RequestError, PromptTooLong
        or UnknownToken.
        """
        request = self.request
        before = tokenizer.text_of(request.context) if request.context else ""
        self._asked = tokenizer.encode_within(before + request.prompt, num_ctx)
        length = len(self._asked)
        if not length:
            raise RequestError("the prompt is empty")
        self.kept = num_kept(request.num_keep, prompt_length=length, add_bos=info.add_bos, num_ctx=num_ctx)
        truncate = request.truncate and request.shift
        self.prompt = fitted(self._asked, num_ctx=num_ctx, kept=self.kept, truncate=truncate)
        self._end_ids = frozenset(info.eos_ids)
        limit = MAX_WINDOWS * num_ctx
        self._limit = min(request.num_predict, limit) if request.num_predict > 0 else limit
        if not (shifts and request.shift):
            self._limit = min(self._limit, num_ctx - len(self.prompt) + 1)
        self._tokenizer = tokenizer
        self._constraint = constraint
        self._constrain = constraint.apply if constraint is not None else None
        self._detokenizer = Detokenizer(tokenizer, request.visible)
        self._stops = StopMatcher(request.stop)
        self._guard = RepeatGuard()
        self._sampler = Sampler(
            request.sampling, num_ctx=num_ctx, prompt=self.prompt, newline_ids=tokenizer.newline_ids
        )

    def begin_prefill(self, cached_count: int) -> None:
        """A slot is its own that holds the first `cached_count` tokens of the prompt."""
        self._started_ns = time.monotonic_ns()
        self.cached_count = cached_count
        self.status = Status.PREFILL

    def begin_decode(self) -> None:
        """The prompt is evaluated."""
        self._evaluated_ns = time.monotonic_ns()
        self.status = Status.DECODE

    def advance(self, logits: Floats) -> Piece | None:
        """Chooses the next token from (V,) logits; what may now be shown, if anything."""
        token = self._sampler.choose(logits, self._constrain)
        self._eval_count += 1
        if token in self._end_ids:
            text = self._end("stop")
            return Piece(self.id, text) if text else None
        self.tokens.append(token)
        logprobs = self._logprobs(logits, token)
        text = self._show(token)
        return Piece(self.id, text, logprobs) if text or logprobs else None

    def _logprobs(self, logits: Floats, token: int) -> list[Logprob]:
        num_top = self.request.top_logprobs
        return [] if num_top < 0 else [logprob_of(logits, token, num_top, self._tokenizer.spelt)]

    def _show(self, token: int) -> str:
        """The text that `token` lets be shown, maybe none; ends the sequence where it is time."""
        piece = self._detokenizer.add(token)
        shown = self._stops.feed(piece) if piece else ""
        if self._stops.stopped:
            self.finish("stop")
        elif self._completes(token):
            shown += self._end("stop")
        elif self._eval_count >= self._limit or self._loops(token, piece):
            shown += self._end("length")
        if self.request.want_context:
            self._texts.append(shown)
        return shown

    def _completes(self, token: int) -> bool:
        if self._constraint is None:
            return False
        self._constraint.accept(token)
        return self._constraint.finished

    def _loops(self, token: int, piece: str) -> bool:
        """A piece may be empty within a character; a token without any text counts as a blank one."""
        return bool(piece or not self._tokenizer.token_bytes(token)) and self._guard.loops(piece)

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
            context=self._context() if self.request.want_context and self.prompt else [],
        )

    def _context(self) -> list[int]:
        """The whole prompt, cut or not, and the whole answer."""
        if self._eval_count and self._stops.stopped:  # the tokens say more than was shown
            return self._asked + self._tokenizer.encode_plain("".join(self._texts))
        return self._asked + self.tokens
