"""From the states of a text's tokens to one vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from hearth_export.graph import Graph
from hearth_export.spec import Pooling
from hearthd.store import variant


def lengths_column(graph: Graph) -> str:
    """The texts' lengths as the value `lengths_column`, (B, 1) int64."""
    if "lengths_column" in graph.values:
        return "lengths_column"
    wide = graph.node("Cast", "wide_lengths", [variant.LENGTHS], to=TensorProto.INT64)
    return graph.node("Unsqueeze", "lengths_column", [wide, graph.constant("last_axis", np.array([-1], np.int64))])


def positions(graph: Graph) -> str:
    """0, 1 .. S - 1 as the value `token_positions`, (S,) int64."""
    if "token_positions" in graph.values:
        return "token_positions"
    zero, one = graph.constant("zero", np.array(0, np.int64)), graph.constant("one", np.array(1, np.int64))
    limit = graph.node("Squeeze", "num_tokens.scalar", ["num_tokens"])
    return graph.node("Range", "token_positions", [zero, limit, one])


def is_full(graph: Graph) -> str:
    """Whether the texts are all as long as the longest, as the value `is_full`, a bool."""
    if "is_full" in graph.values:
        return "is_full"
    shortest = graph.node("ReduceMin", "shortest", [variant.LENGTHS], keepdims=0)
    wide = graph.node("Squeeze", "longest.wide", ["num_tokens"])
    longest = graph.node("Cast", "longest", [wide], to=TensorProto.INT32)
    return graph.node("Equal", "is_full", [shortest, longest])


def mean(graph: Graph, name: str, x: str, lengths: str) -> str:
    """The mean of the states x (B, S, H) of each text's own tokens as the value `name`, (B, H)."""
    is_own = graph.node("Less", "is_own", [positions(graph), lengths])  # (B, S)
    own = graph.node("Cast", "own", [is_own], to=TensorProto.FLOAT)
    counts = graph.node("Cast", "counts", [lengths], to=TensorProto.FLOAT)
    shares = graph.node("Div", "shares", [own, counts])
    axis = graph.constant("axis_1", np.array([1], np.int64))
    row = graph.node("Unsqueeze", "shares.row", [shares, axis])  # (B, 1, S)
    total = graph.node("MatMul", "pooled", [row, x])
    return graph.node("Squeeze", name, [total, axis])


def picked(graph: Graph, pooling: Pooling, hidden_size: int) -> Callable[[str], str]:
    """What takes the states (B, 1, H) of each text's first or last token out of a value (B, S, H)."""
    zero, one = graph.constant("from_0", np.array(0, np.int64)), graph.constant("by_1", np.array(1, np.int64))
    num_texts = graph.node("Squeeze", "num_texts.scalar", ["num_texts"])
    texts = graph.node("Range", "texts", [zero, num_texts, one])
    rows = graph.node("Mul", "first_rows", [texts, "num_tokens"])  # (B,) of the flattened (B * S, H)
    rows = graph.node("Unsqueeze", "first_rows.column", [rows, graph.constant("axis_last", np.array([-1], np.int64))])
    if pooling is Pooling.LAST:
        ends = graph.node("Add", "row_ends", [rows, lengths_column(graph)])
        rows = graph.node("Sub", "last_rows", [ends, one])
    flat = graph.constant("flat_shape", np.array([-1, hidden_size], np.int64))

    def pick(x: str) -> str:
        flattened = graph.node("Reshape", f"{x}.flat", [x, flat])
        return graph.node("Gather", f"{x}.picked", [flattened, rows], axis=0)

    return pick
