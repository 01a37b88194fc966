"""Which tokens the KV cache holds, and which of them another request may go on from."""

from __future__ import annotations


def num_common(left: list[int], right: list[int]) -> int:
    """The length of the longest common prefix."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(index for index in range(shorter) if left[index] != right[index])


class CachedTokens:
    """The tokens whose keys and values the device holds, by position.

    Kernels for one row, or for the rows that fill no whole tile of `tile` rows, give other last bits than
    those for whole tiles. So the leading tokens that were evaluated in whole tiles, all those before them too,
    count as exact: evaluating them again gives the same bits, whatever ran before.
    """

    def __init__(self, tile: int) -> None:
        self._tile = tile
        self._ids: list[int] = []
        self._num_exact = 0  # a multiple of the tile
        self._num_whole = 0  # leading tokens that were evaluated after exactly those that precede them now

    def __len__(self) -> int:
        return len(self._ids)

    def reusable(self, prompt: list[int], *, exact: bool) -> int:
        """How many leading tokens of `prompt` need no evaluation; one token always does.

        With `exact` only as many as leave the answer what it were from an empty cache.
        """
        if not exact:
            return min(num_common(self._ids[: self._num_whole], prompt), len(prompt) - 1)
        common = min(num_common(self._ids[: self._num_exact], prompt), max(len(prompt) - 2, 0))
        return common - common % self._tile

    @property
    def num_whole(self) -> int:
        """How many leading tokens another request may go on from at all."""
        return self._num_whole

    @property
    def num_exact(self) -> int:
        """How many leading tokens are exact: a multiple of the tile."""
        return self._num_exact

    def prefix(self, length: int) -> list[int]:
        """The first `length` tokens."""
        return self._ids[:length]

    def become(self, tokens: list[int], num_exact: int) -> None:
        """`tokens` are held now, taken over from elsewhere, and nothing more; the first `num_exact` are exact."""
        self._ids = tokens
        self._num_whole = len(tokens)
        self._num_exact = min(num_exact, len(tokens) - len(tokens) % self._tile)

    def cut(self, length: int) -> None:
        """Forgets all after the first `length`."""
        del self._ids[length:]
        self._num_exact = min(self._num_exact, length - length % self._tile)
        self._num_whole = min(self._num_whole, length)

    def extend(self, tokens: list[int]) -> None:
        """`tokens` were evaluated in one step, after those held."""
        length = len(self._ids)
        if self._num_exact == length:
            self._num_exact += len(tokens) - len(tokens) % self._tile
        if self._num_whole == length:
            self._num_whole += len(tokens)
        self._ids += tokens

    def append(self, token: int) -> None:
        """`token` was evaluated alone, after those held."""
        if self._num_whole == len(self._ids):
            self._num_whole += 1
        self._ids.append(token)

    def drop(self, kept: int, count: int) -> None:
        """The `count` tokens after the first `kept` have gone, and those behind took their place."""
        self._num_exact = min(self._num_exact, kept - kept % self._tile)
        self._num_whole = min(self._num_whole, kept)
        del self._ids[kept : kept + count]
