"""Which messages of a long conversation are kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from hearthd.errors import BadRequest


class HasRole(Protocol):
    """Anything said by someone."""

    @property
    def role(self) -> str:
        """ "system", "user", "assistant" ..."""
        ...


M = TypeVar("M", bound=HasRole)


def cut(messages: Sequence[M], start: int) -> list[M]:
    """The messages from `start` on, and every system message before it."""
    return [m for i, m in enumerate(messages) if i >= start or m.role == "system"]


async def fit(messages: Sequence[M], count: Callable[[Sequence[M]], Awaitable[int]], num_ctx: int) -> list[M]:
    """The longest tail of `messages`, with the system messages before it, of at most `num_ctx` tokens.

    `count` says how many tokens a selection takes. Where it refuses all the messages (BadRequest), so does
    this; a smaller selection that it refuses does not fit. The last message is kept whatever it takes, and the one
    that it answers where it is the beginning of an answer. Dropping more never takes more tokens, so the cut is
    found by halving; a message takes a token at least, so of more messages than `num_ctx` the first are not counted.
    """
    last = _last_start(messages)
    first = min(last, max(0, len(messages) - num_ctx))
    if first == 0 and await count(messages) <= num_ctx:
        return list(messages)
    low, high = min(first + (first == 0), last), last
    while low < high:
        middle = (low + high) // 2
        if await _fits(cut(messages, middle), count, num_ctx):
            high = middle
        else:
            low = middle + 1
    return cut(messages, low)


def _last_start(messages: Sequence[HasRole]) -> int:
    """Where the messages begin that are always kept."""
    is_answer = len(messages) > 1 and messages[-1].role == "assistant" and messages[-2].role == "user"
    return len(messages) - (2 if is_answer else 1)


async def _fits(messages: Sequence[M], count: Callable[[Sequence[M]], Awaitable[int]], num_ctx: int) -> bool:
    try:
        return await count(messages) <= num_ctx
    except BadRequest:
        return False
