"""A graph that was not made here, its inputs filled as its binding says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hearthd.store.variant import IDS, MASK, NUM_LOGITS, POSITIONS, TYPES, USE_CACHE, Binding, State

Array = NDArray[np.generic]
Floats = NDArray[np.float32]

# ONNX Runtime's names of types -> NumPy's
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class BoundGraph:
    """An open graph and its binding."""

    def __init__(self, session: ort.InferenceSession, binding: Binding) -> None:
        self.ort = session
        self.binding = binding
        self._dtypes = {value.name: DTYPES[value.type] for value in session.get_inputs() if value.type in DTYPES}
        self._ranks = {value.name: len(value.shape) for value in session.get_inputs()}
        self._names = [binding.output, *(state.present for state in binding.states)]

    def step(self, tokens: Sequence[int], past: int, states: Sequence[Array] | None) -> tuple[Floats, list[Array]]:
        """Evaluates tokens of one sequence behind `past` positions, whose `states` are as long (None: there are none).

        The logits (V,) of the last token, and the new states.
        """
        feeds = self.feeds(np.array([tokens], np.int64), [past])
        held = states if states is not None else [empty(state) for state in self.binding.states]
        feeds |= {state.past: array for state, array in zip(self.binding.states, held, strict=True)}
        output, *presents = self.ort.run(self._names, feeds)
        return last_row(output), presents

    def feeds(self, ids: NDArray[np.int64], pasts: Sequence[int], lengths: Sequence[int] = ()) -> dict[str, Array]:
        """All inputs but the states, for `ids` (B, S) behind `pasts` (B,) positions.

        `lengths` (B,): tokens of each row that are no padding; all of them by default.
        """
        num_new = ids.shape[1]
        behind = np.array(pasts, np.int64)
        ends = behind + (np.array(lengths, np.int64) if len(lengths) else num_new)
        values: Mapping[str, Array] = {
            IDS: ids,
            MASK: (np.arange(behind.max() + num_new) < ends[:, None]).astype(np.int64),
            POSITIONS: behind[:, None] + np.arange(num_new),
            TYPES: np.zeros_like(ids),
            USE_CACHE: np.array([behind.max() > 0]),
            NUM_LOGITS: np.array(1),
        }
        return {name: self._shaped(name, values[role]) for name, role in self.binding.inputs.items()}

    def _shaped(self, name: str, value: Array) -> Array:
        """As the input wants it: its type, and where it holds one value its rank."""
        if value.size == 1 and value.ndim < 2:
            value = value.reshape((1,) * self._ranks[name])
        return value.astype(self._dtypes[name], copy=False)


def empty(state: State) -> Array:
    """The keys or values of no position, of one sequence."""
    return np.zeros((1, *(0 if size < 0 else size for size in state.shape)), state.dtype)


def cut(state: State, array: Array, length: int) -> Array:
    """The first `length` positions of what `present` gave; a view."""
    axis = 1 + state.shape.index(-1)
    view: Array = array[(slice(None),) * axis + (slice(length),)]
    return view


def last_row(logits: Array) -> Floats:
    """(V,) of (1, S, V), (1, 1, V) or (1, V)."""
    row: Floats = logits.reshape(-1, logits.shape[-1])[-1].astype(np.float32, copy=False)
    return row
