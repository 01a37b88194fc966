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
    this; a smaller selection that it refuses does not fit. The last message is kept whatever it takes.
    Dropping more never takes more tokens, so the cut is found by halving.
    """
    if await count(messages) <= num_ctx:
        return list(messages)
    low, high = min(1, len(messages) - 1), len(messages) - 1
    while low < high:
        middle = (low + high) // 2
        if await _fits(cut(messages, middle), count, num_ctx):
            high = middle
        else:
            low = middle + 1
    return cut(messages, low)


async def _fits(messages: Sequence[M], count: Callable[[Sequence[M]], Awaitable[int]], num_ctx: int) -> bool:
    try:
        return await count(messages) <= num_ctx
    except BadRequest:
        return False
