"""How many tokens of a prompt are evaluated at once: pure arithmetic."""

from __future__ import annotations


def next_size(num_left: int, *, chunk: int, tile: int) -> int:
    """Tokens of the next prefill step: `chunk`, a multiple of `tile`, as long as tokens last, then the rest.

    A step of one token runs in other kernels than longer ones, so none is left alone: the step before it leaves it a
    tile, or where a chunk is no more than a tile, a token for company.
    """
    if num_left <= chunk:
        return num_left
    if num_left == chunk + 1:
        return max(chunk - (tile if tile < chunk else 1), 1)
    return chunk
