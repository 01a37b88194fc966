from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hearthd.errors import BadRequest
from hearthd.prompt.conversation import Turn
from hearthd.prompt.truncate import fit


async def words(turns: Sequence[Turn]) -> int:
    return sum(len(turn.content.split()) for turn in turns)


def kept(turns: list[Turn], num_ctx: int) -> str:
    return " | ".join(turn.content for turn in asyncio.run(fit(turns, words, num_ctx)))


TALK = [
    Turn("system", "sys one"),
    Turn("user", "a b c"),
    Turn("assistant", "d e f"),
    Turn("system", "sys two"),
    Turn("user", "g h i"),
]


@pytest.mark.parametrize(
    ("num_ctx", "expected"),
    [
        (13, "sys one | a b c | d e f | sys two | g h i"),
        (12, "sys one | d e f | sys two | g h i"),
        (10, "sys one | d e f | sys two | g h i"),
        (9, "sys one | sys two | g h i"),
        (1, "sys one | sys two | g h i"),
    ],
)
def test_the_oldest_messages_go_first_but_system_and_last_stay(num_ctx: int, expected: str) -> None:
    assert kept(TALK, num_ctx) == expected


def test_a_single_message_is_kept_whatever_its_length() -> None:
    assert kept([Turn("user", "a b c d")], 2) == "a b c d"


def test_no_messages_stay_none() -> None:
    assert kept([], 5) == ""


def test_the_cut_is_the_first_that_fits_in_a_long_conversation() -> None:
    turns = [Turn("user", "w " * (i % 7 + 1)) for i in range(200)]
    for num_ctx in (1, 50, 333, 700):
        result = asyncio.run(fit(turns, words, num_ctx))
        longer = turns[len(turns) - len(result) - 1 :]
        assert asyncio.run(words(result)) <= max(num_ctx, asyncio.run(words(turns[-1:])))
        assert asyncio.run(words(longer)) > num_ctx


def test_a_refused_conversation_is_refused() -> None:
    async def refuse(turns: Sequence[Turn]) -> int:
        raise BadRequest("roles must alternate")

    with pytest.raises(BadRequest, match="alternate"):
        asyncio.run(fit(TALK, refuse, 100))


def test_a_refused_selection_is_not_chosen() -> None:
    async def user_first(turns: Sequence[Turn]) -> int:
        if turns[0].role != "user":
            raise BadRequest("a user message must come first")
        return await words(turns)

    turns = [Turn("user", "a b"), Turn("assistant", "c d"), Turn("user", "e f")]
    assert asyncio.run(fit(turns, user_first, 4)) == turns[2:]
