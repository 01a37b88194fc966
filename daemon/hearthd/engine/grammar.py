"""What an answer must be: masks over the vocabulary that let through only what the grammar goes on with.

llguidance does the work: an Earley parser over bytes beside a trie of the vocabulary. Importing it and building the
trie takes 17 MiB and 0.15 s at 49k tokens, once a runner, and only where a request asks for a format.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hearthd.engine.frames import Grammar
from hearthd.engine.schema import GrammarError, compiled, explained
from hearthd.engine.thoughts import Closing, Opening
from hearthd.engine.tokens import Tokenizer
from hearthd.engine.trial import tried
from hearthd.engine.vocabulary import BLANKS, Vocabulary
from hearthd.store.variant import VariantInfo

if TYPE_CHECKING:
    import llguidance

__all__ = ["Constraint", "GrammarError", "Grammars"]

Floats = NDArray[np.float32]
Ids = NDArray[np.integer[Any]]

TRIAL_STEPS = 32
BLANKS_AFTER_THOUGHTS = 2  # tokens; most models leave a line empty there


class _Tokens:
    """The vocabulary as the library wants to be given it."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.tokens = vocabulary.printed
        self.eos_token_id = int(vocabulary.eos_ids[0]) if len(vocabulary.eos_ids) else None
        self.greedy: Callable[[str], list[int]] = lambda text: []

    def __call__(self, text: str) -> list[int]:
        """The tokens of text that the grammar leaves no choice about."""
        return self._vocabulary.encode(text) or self.greedy(text)


class Grammars:
    """Compiles grammars for one model; the work that they share is done at the first."""

    def __init__(self, tokenizer: Tokenizer, info: VariantInfo) -> None:
        self._vocabulary = Vocabulary(tokenizer, info)
        self._trie: llguidance.LLTokenizer | None = None

    def compile(self, grammar: Grammar) -> Constraint:
        """The state of one answer that has not begun. Raises GrammarError for a schema that cannot be enforced."""
        trie = self._built_trie()
        tried(grammar.schema)
        matcher = Matcher(compiled(trie, grammar.schema), trie, self._vocabulary)
        matcher.try_out()
        return Constraint(matcher, self._vocabulary, grammar)

    def _built_trie(self) -> llguidance.LLTokenizer:
        if self._trie is None:
            import llguidance

            tokens = _Tokens(self._vocabulary)
            self._trie = llguidance.LLTokenizer(tokens, eos_token=self._vocabulary.eos_ids.tolist() or None)
            tokens.greedy = self._trie.greedy_tokenize
        return self._trie


class Matcher:
    """Where an answer stands in its grammar."""

    def __init__(self, parser: llguidance.LLMatcher, trie: llguidance.LLTokenizer, vocabulary: Vocabulary) -> None:
        self._parser = parser
        self._trie = trie
        self._size = vocabulary.size
        self._eos_ids = vocabulary.eos_ids
        self._words = np.zeros((trie.vocab_size + 31) // 32, np.uint32)

    @property
    def stopped(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._parser.is_stopped())

    def mask(self) -> NDArray[np.bool_]:
        """(V,) true where a token may follow. Raises GrammarError where the schema turns out too complex."""
        self._parser.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._parser.is_error():
            raise GrammarError(explained(self._parser.get_error()))
        bits = np.unpackbits(self._words.view(np.uint8), count=self._size, bitorder="little")
        return bits.view(np.bool_)

    def fits(self, tokens: list[int]) -> bool:
        """Whether all of `tokens` may follow, one after the other."""
        return bool(self._parser.validate_tokens(tokens) == len(tokens))

    def consume(self, tokens: list[int]) -> None:
        """Goes on by `tokens`. Raises GrammarError where they may not follow."""
        if not self._parser.consume_tokens(tokens):
            raise GrammarError(explained(self._parser.get_error()))

    def tokens_of(self, text: bytes) -> list[int]:
        """Tokens that print `text`."""
        return list(self._trie.greedy_tokenize(text.decode("utf-8", "replace")))

    def reset(self) -> None:
        """Back to the beginning."""
        self._parser.reset()

    def try_out(self) -> None:
        """Walks some steps at random and back: a grammar too complex mostly shows it soon. Raises GrammarError."""
        chance = random.Random(0)
        for _ in range(TRIAL_STEPS):
            allowed = np.flatnonzero(self.mask())
            allowed = allowed[~np.isin(allowed, self._eos_ids)]
            if len(allowed):
                self.consume([int(chance.choice(allowed))])
            if self.stopped or not len(allowed):
                self.reset()
        self.reset()


class Constraint:
    """Which tokens one answer may go on with: thoughts, where the model has any, then JSON text.

    Thoughts are free, but they cannot end the answer; behind them two tokens of blanks may precede the JSON text.
    """

    def __init__(self, matcher: Matcher, vocabulary: Vocabulary, grammar: Grammar) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        may_think = bool(grammar.opening and grammar.closing)
        self._opening = Opening(grammar.opening) if may_think and not grammar.is_thinking else None
        self._closing = Closing(grammar.closing) if grammar.closing else None
        self._thinks = grammar.is_thinking and self._closing is not None
        self._answers = not self._thinks  # while `_opening` is open too, the text fits both
        self._num_blanks = 0  # tokens that may still come
        self._ended = False
        self._row: Floats = np.empty(0, np.float32)

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing but the end may follow."""
        return self._ended or (self._answers and self._opening is None and self._matcher.stopped)

    def apply(self, logits: Floats) -> Floats:
        """`logits` (V,) float32 with -inf where a token may not follow: a buffer that the next call overwrites.

        Raises GrammarError where the schema turns out too complex.
        """
        if len(self._row) != len(logits):
            self._row = np.empty_like(logits)
        if self._thinks:
            np.copyto(self._row, logits)
            self._row[self._vocabulary.eos_ids] = -np.inf
            self._row[self._misfits()] = -np.inf
        else:
            allowed = self._allowed()
            self._row.fill(-np.inf)
            np.copyto(self._row[: len(allowed)], logits[: len(allowed)], where=allowed)
        return self._row

    def _allowed(self) -> NDArray[np.bool_]:
        allowed = self._matcher.mask() if self._answers else np.zeros(self._vocabulary.size, np.bool_)
        if self._opening is not None:
            allowed[self._opening.continuations(self._vocabulary)] = True
        if self._num_blanks:
            allowed[self._vocabulary.blanks] = True
        return allowed

    def _misfits(self) -> list[int]:
        """Tokens that would end the thoughts and begin the answer with what cannot begin it."""
        assert self._closing is not None
        endings = self._closing.endings(self._vocabulary)
        return [token for token, tail in endings if not self._matcher.fits(self._matcher.tokens_of(tail))]

    def accept(self, token: int) -> None:
        """Goes on by `token`, which the last row allowed. Raises GrammarError where it did not."""
        if token in self._vocabulary.eos_ids:
            self._ended = True
        elif self._thinks:
            self._think(self._vocabulary.shown[token])
        elif self._opening is not None:
            self._begin(token, self._opening)
        else:
            self._answer(token)

    def _answer(self, token: int) -> None:
        if self._num_blanks and not self._vocabulary.printed[token].strip(BLANKS):
            self._num_blanks -= 1
        else:
            self._num_blanks = 0
            self._matcher.consume([token])

    def _begin(self, token: int, opening: Opening) -> None:
        """The text may still become the opening tag or the answer."""
        rest = opening.add(self._vocabulary.shown[token])
        self._answers = self._answers and self._matcher.fits([token])
        if rest is None:
            self._opening = None
        if rest is None or self._answers:
            self._matcher.consume([token])
        if opening.complete:
            self._opening, self._answers, self._thinks = None, False, True
            self._matcher.reset()
            self._think(rest or b"")

    def _think(self, text: bytes) -> None:
        assert self._closing is not None
        tail = self._closing.add(text)
        if tail is None:
            return
        self._thinks, self._answers, self._num_blanks = False, True, 0 if tail else BLANKS_AFTER_THOUGHTS
        self._matcher.consume(self._matcher.tokens_of(tail))
