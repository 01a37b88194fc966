"""From a request to a sequence that waits for a slot: its tokens, its grammar, its sampler. No device is touched."""

from __future__ import annotations

from hearthd.engine.frames import Generate
from hearthd.engine.grammar import Grammars
from hearthd.engine.sequence import Sequence
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import VariantInfo


class Preparation:
    """Prepares the requests of one model. Two threads may use it, if one of them alone compiles grammars."""

    def __init__(self, tokenizer: Tokenizer, info: VariantInfo, *, num_ctx: int, shifts: bool) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._num_ctx = num_ctx
        self._shifts = shifts
        self._grammars = Grammars(tokenizer, info)

    def prepared(self, request: Generate) -> Sequence:
        """The sequence. Raises RequestError, PromptTooLong, UnknownToken or GrammarError."""
        sequence = Sequence(request)
        constraint = None if request.grammar is None else self._grammars.compile(request.grammar)
        sequence.prepare(self._tokenizer, self._info, num_ctx=self._num_ctx, shifts=self._shifts, constraint=constraint)
        return sequence
