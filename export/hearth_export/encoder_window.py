"""Local attention of an encoder: each token sees those of a window around it.

Short texts have all scores made, and those beyond the window are dropped. Long ones are cut into blocks of queries,
each with the keys and values around it, as if they were texts of their own: time and memory grow with the text's
length, not with its square.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hearth_export.graph import Graph
from hearth_export.pooling import lengths_column, positions
from hearthd.store import variant

UNSEEN = -1e4  # added to a score: its exponential is zero
MIN_WINDOWS = 4  # that a text is longer than where it is cut

# (name, query, key, value and what else MultiHeadAttention takes) -> what it gives
Attend = Callable[[str, list[str]], str]


class Window:
    """The values that layers with one window share; B texts, S tokens, N num_heads * head_dim.

    A block has `window` queries and, from half a window before to half a window behind them, twice as many keys.
    """

    def __init__(self, graph: Graph, window: int, size: int) -> None:
        self._graph = graph
        self._half = window // 2
        self._num_queries, self._num_keys = window, window + 2 * self._half
        self._size = size
        self._name = f"window.{window}"
        self._indices()
        self._bias = graph.either(f"{self._name}.bias", self._is_long, self._block_bias, self._square_bias)

    def attended(self, name: str, attend: Attend, query: str, key: str, value: str) -> str:
        """What attention gives of query, key and value, (B, S, N) all."""

        def in_blocks(name: str) -> str:
            queries = self._cut(f"{name}.query", query, self._queries, self._num_queries)
            keys, values = (
                self._cut(f"{name}.{kind}", x, self._keys, self._num_keys)
                for kind, x in (("key", key), ("value", value))
            )
            blocks = attend(f"{name}.blocks", [queries, keys, values, "", "", self._bias])
            rows = self._graph.node("Reshape", f"{name}.rows", [blocks, self._joined])
            return self._graph.node(
                "Slice", name, [rows, self._int("from_row", 0), "num_tokens", self._int("axis_1", 1)]
            )

        def at_once(name: str) -> str:
            return attend(name, [query, key, value, "", variant.LENGTHS, self._bias])

        return self._graph.either(name, self._is_long, in_blocks, at_once)

    def _int(self, name: str, *values: int) -> str:
        return self._graph.constant(name, np.array(values, np.int64))

    def _scalar(self, value: int) -> str:
        return self._graph.constant(f"scalar.{value}", np.array(value, np.int64))

    def _indices(self) -> None:
        """Where a block's tokens lie, before (`_asked`, `_seen`) and after those beyond the text were moved in."""
        graph, name, each = self._graph, self._name, self._num_queries
        self._positions = positions(graph)
        self._lengths = lengths_column(graph)
        zero, one, step = self._scalar(0), self._scalar(1), self._scalar(each)
        num_tokens = "num_tokens.scalar"
        self._is_long = graph.node("Greater", f"{name}.is_long", [num_tokens, self._scalar(MIN_WINDOWS * each)])
        filled = graph.node("Add", f"{name}.filled", [num_tokens, self._scalar(each - 1)])
        whole = graph.node("Div", f"{name}.num_blocks", [filled, step])
        limit = graph.node("Mul", f"{name}.limit", [whole, step])
        last = graph.node("Sub", f"{name}.last", [num_tokens, one])
        self._asked = graph.node("Range", f"{name}.asked", [zero, limit, one])  # (blocks * queries,)
        self._queries = graph.node("Min", f"{name}.queries", [self._asked, last])
        starts = graph.node("Range", f"{name}.starts", [self._scalar(-self._half), limit, step])
        starts = graph.node("Slice", f"{name}.firsts", [starts, self._int("from_row", 0), self._unsqueezed(whole)])
        column = graph.node("Unsqueeze", f"{name}.column", [starts, self._int("axis_1", 1)])
        offsets = graph.node("Range", f"{name}.offsets", [zero, self._scalar(self._num_keys), one])
        self._seen = graph.node("Add", f"{name}.seen", [column, offsets])  # (blocks, keys)
        inside = graph.node("Max", f"{name}.not_before", [self._seen, zero])
        self._keys = graph.node("Min", f"{name}.keys", [inside, last])
        parts = ["num_texts", self._int("as_many", -1), self._int(f"columns.{self._size}", self._size)]
        self._joined = graph.node("Concat", f"{name}.joined", parts, axis=0)

    def _unsqueezed(self, scalar: str) -> str:
        return self._graph.node("Unsqueeze", f"{scalar}.row", [scalar, self._int("axis_0", 0)])

    def _cut(self, name: str, x: str, indices: str, num_rows: int) -> str:
        """The rows of x (B, S, N) that each block has, (B * blocks, num_rows, N)."""
        rows = self._graph.node("Gather", f"{name}.rows", [x, indices], axis=1)
        shape = self._int(f"block_shape.{num_rows}.{self._size}", -1, num_rows, self._size)
        return self._graph.node("Reshape", name, [rows, shape])

    def _block_bias(self, name: str) -> str:
        """What is added to the scores of blocks, (B * blocks, 1, queries, keys)."""
        graph, each, others = self._graph, self._num_queries, self._num_keys
        asked = graph.node("Reshape", f"{name}.asked", [self._asked, self._int(f"asked_shape.{each}", -1, each, 1)])
        seen = graph.node("Unsqueeze", f"{name}.seen", [self._seen, self._int("axis_1", 1)])
        beyond = self._is_beyond(name, asked, seen)  # (blocks, queries, keys)
        before = graph.node("Less", f"{name}.before", [seen, self._scalar(0)])
        lengths = graph.node("Unsqueeze", f"{name}.lengths", [self._lengths, self._int("two_axes", -1, -2)])
        behind = graph.node("GreaterOrEqual", f"{name}.behind", [seen, lengths])  # (B, blocks, 1, keys)
        outside = graph.node("Or", f"{name}.outside", [before, behind])
        bias = self._as_bias(f"{name}.values", graph.node("Or", f"{name}.unseen", [beyond, outside]))
        return graph.node("Reshape", name, [bias, self._int(f"bias_shape.{each}", -1, 1, each, others)])

    def _square_bias(self, name: str) -> str:
        """What is added to all scores of a text, (1, 1, S, S)."""
        graph = self._graph
        column = graph.node("Unsqueeze", f"{name}.column", [self._positions, self._int("axis_1", 1)])
        row = graph.node("Unsqueeze", f"{name}.row", [self._positions, self._int("axis_0", 0)])
        bias = self._as_bias(f"{name}.values", self._is_beyond(name, column, row))
        return graph.node("Unsqueeze", name, [bias, self._int("first_axes", 0, 1)])

    def _is_beyond(self, name: str, one: str, other: str) -> str:
        """Whether two positions are further from each other than half a window."""
        apart = self._graph.node("Sub", f"{name}.apart", [one, other])
        distance = self._graph.node("Abs", f"{name}.distance", [apart])
        return self._graph.node("Greater", f"{name}.beyond", [distance, self._scalar(self._half)])

    def _as_bias(self, name: str, unseen: str) -> str:
        values = (self._graph.constant(f"bias.{value}", np.array(value, np.float32)) for value in (UNSEEN, 0.0))
        return self._graph.node("Where", name, [unseen, *values])
