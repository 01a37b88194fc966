from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from hearthd.api.embedding import PART_CHARS, PART_TEXTS, Text, Wanted, embedded, parts, texts_of
from hearthd.engine.frames import Embed, Embedded
from hearthd.errors import BadRequest


class Counting:
    """A runner whose vectors tell how many characters a text has, `size` times."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.requests: list[Embed] = []

    async def embed(self, request: Embed) -> Embedded:
        self.requests.append(request)
        vectors = b"".join(struct.pack("<f", len(text)) * self.size for text in request.texts)
        return Embedded(1, vectors, self.size, sum(map(len, request.texts)), 1)


def run(runner: Any, texts: list[Text]) -> list[list[float]]:
    vectors = asyncio.run(embedded(runner, Wanted(texts)))
    assert vectors.num_tokens == sum(map(len, texts))
    return [[*map(float, vector.cast("f").tolist())] for vector in vectors]


def test_many_texts_are_asked_for_in_parts_of_like_length_and_come_back_in_order() -> None:
    texts: list[Text] = ["x" * (place * 37 % 101) for place in range(1000)]
    runner = Counting()
    assert run(runner, texts) == [[float(len(text))] for text in texts]
    assert [len(request.texts) for request in runner.requests] == [256, 256, 256, 232]
    lengths = [len(text) for request in runner.requests for text in request.texts]
    assert lengths == sorted(lengths)


def test_long_texts_share_no_frame() -> None:
    long = "x" * (PART_CHARS - 1)
    assert [len(part) for part in parts([long, "ab", long, long])] == [1, 1, 1, 1]
    assert [len(part) for part in parts(["ab", "a" * (PART_CHARS * 3), "ab"])] == [1, 1, 1]
    assert list(parts([])) == []
    assert [len(part) for part in parts(["a"] * PART_TEXTS)] == [PART_TEXTS]


def test_more_vectors_than_one_answer_may_hold_are_refused_with_what_would_do() -> None:
    with pytest.raises(BadRequest, match=r"the input has 5 texts, at most 4 are embedded at once; send it in parts"):
        run(Counting(4 << 20), ["a", "b", "c", "d", "e"])


@pytest.mark.parametrize(("value", "texts"), [(None, None), ("a", ["a"]), ("", [""]), ([], []), (["a", ""], ["a", ""])])
def test_an_input_is_a_text_or_a_list_of_texts(value: Any, texts: list[str] | None) -> None:
    assert texts_of(value) == texts
    assert texts_of(value, ids=True) == texts


@pytest.mark.parametrize("value", [3, True, {"a": 1}, ["a", 3], [["a"]], ["a", None], [1.5], [True], [-1], [1 << 40]])
def test_any_other_input_is_refused(value: Any) -> None:
    for ids in (False, True):
        with pytest.raises(BadRequest, match="invalid input type"):
            texts_of(value, ids=ids)


def test_token_ids_are_one_text_or_several_where_they_are_allowed() -> None:
    assert texts_of([5, 6], ids=True) == [[5, 6]]
    assert texts_of([[5, 6], "a", [7]], ids=True) == [[5, 6], "a", [7]]
    for value in ([5, 6], [[5, 6]]):
        with pytest.raises(BadRequest):
            texts_of(value)
    with pytest.raises(BadRequest):
        texts_of([[]], ids=True)
