from __future__ import annotations

import pytest

from hearthd.engine.chunks import next_size


def sizes(num_tokens: int, chunk: int, tile: int) -> list[int]:
    found = []
    while num_tokens:
        found.append(next_size(num_tokens, chunk=chunk, tile=tile))
        num_tokens -= found[-1]
    return found


@pytest.mark.parametrize(("chunk", "tile"), [(128, 32), (32, 32), (64, 32), (8, 8), (2, 2), (1, 1)])
def test_steps_add_up_begin_on_tiles_and_leave_no_token_alone(chunk: int, tile: int) -> None:
    for num_tokens in range(1, 400):
        found = sizes(num_tokens, chunk, tile)
        assert sum(found) == num_tokens
        assert all(size % tile == 0 for size in (found[:-1] if found[-1] != 2 else found[:-2]))
        assert max(found) <= chunk
        assert found[-1] > 1 or num_tokens == 1 or chunk == 1
