"""From a request to a sequence that waits for a slot: its tokens, its grammar, its sampler. No device is touched."""

from __future__ import annotations

from hearthd.engine.frames import Embed, Generate
from hearthd.engine.grammar import Grammars
from hearthd.engine.reading import Reading
from hearthd.engine.sequence import RequestError, Sequence
from hearthd.engine.tokens import Tokenizer, encode_all
from hearthd.store.variant import VariantInfo


class Preparation:
    """Prepares the requests of one model. Two threads may use it, if one of them alone compiles grammars."""

    def __init__(self, tokenizer: Tokenizer, info: VariantInfo, *, num_ctx: int, shifts: bool) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._num_ctx = num_ctx
        self._shifts = shifts
        self._grammars = Grammars(tokenizer, info)

    def prepared(self, request: Generate | Embed) -> Sequence | Reading:
        """The sequence. Raises RequestError, PromptTooLong, TextTooLong, UnknownToken, EmptyText or GrammarError."""
        return self._reading(request) if isinstance(request, Embed) else self._sequence(request)

    def _sequence(self, request: Generate) -> Sequence:
        sequence = Sequence(request)
        constraint = None if request.grammar is None else self._grammars.compile(request.grammar)
        sequence.prepare(self._tokenizer, self._info, num_ctx=self._num_ctx, shifts=self._shifts, constraint=constraint)
        return sequence

    def _reading(self, request: Embed) -> Reading:
        info = self._info
        if info.binding is not None:
            raise RequestError("this model's ONNX graph gives no states, so that it makes text, but no embeddings")
        if not info.has_hidden:
            raise RequestError(
                "this model was converted by a version that made no embeddings; remove it and create or pull it again"
            )
        texts = encode_all(self._tokenizer, request.texts, self._num_ctx, truncate=request.truncate)
        return Reading(request, texts, info.hidden_size, info.pooling)
