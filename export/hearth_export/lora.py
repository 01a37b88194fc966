"""A LoRA adapter merged into a checkpoint: a GGUF file in which the touched matrices have the product added.

They become Q8_0, or stay floats; every other tensor is copied to the byte.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hearth_export.adapter import MAX_FACTOR_ELEMENTS, Adapter, Pair, floats_of, open_adapter
from hearth_export.encode import encode
from hearth_export.errors import BadCheckpoint, UnsupportedModel, naming
from hearth_export.ggml import FLOAT_TYPES, Bytes, Floats
from hearth_export.progress import Progress
from hearth_export.readers.values import TensorInfo
from hearth_export.writers.form import Form, interleaved, num_turned_heads, open_form
from hearth_export.writers.rewrite import rewrite

MERGED_TYPE = "Q8_0"
CHUNK_ELEMENTS = 1 << 18


def merge(source: Path, adapter: Path, out: Path, report: Progress) -> int:
    """Writes the checkpoint `source`, a file or a directory, with the adapter merged in to the GGUF file `out`; the new
    file's bytes.

    `out` does not change before the new file is whole and synced. Progress counts bytes of the source. Raises
    ExportError, which names `source` or `adapter`.
    """
    with open_form(source) as form, open_adapter(adapter) as opened:
        report("reading", 0, 0)
        with naming(adapter):
            _check(opened, form)
        with naming(source):
            merging = _Merging(form, opened)
            types = {name: merging.type_of(info) for name, info in form.tensors.items()}
            return rewrite(form, out, types, {}, merging.rows, report, "merging", CHUNK_ELEMENTS)


class _Merging:
    """The tensors of a checkpoint as they become."""

    def __init__(self, form: Form, adapter: Adapter) -> None:
        self._form = form
        self._vectors = adapter.vectors
        self._pairs: dict[str, list[Pair]] = {}
        for pair in adapter.pairs:
            self._pairs.setdefault(pair.tensor, []).append(pair)
        self._held: tuple[Pair, Floats] | None = None  # the pair of the rows before, with its a

    def type_of(self, info: TensorInfo) -> str:
        is_touched = info.name in self._pairs
        return MERGED_TYPE if is_touched and info.type not in FLOAT_TYPES else info.type

    def rows(self, info: TensorInfo, start: int, stop: int) -> Bytes:
        """Rows start..stop in their new type."""
        if info.name in self._vectors:
            return encode(info.type, self._vectors[info.name][None][start:stop])
        raw = self._form.rows(info.name, start, stop)
        if info.name not in self._pairs:
            return raw
        w = floats_of(raw, info.type).copy()
        for pair in self._pairs[info.name]:
            self._add(pair, w, start, stop)
        if not np.isfinite(w).all():
            raise BadCheckpoint("a weight is not finite after the merge: the adapter or the checkpoint is damaged")
        return encode(self.type_of(info), w)

    def _add(self, pair: Pair, w: Floats, start: int, stop: int) -> None:
        """Adds the product to rows start..stop."""
        num_rows = pair.b.shape[0]
        first = num_rows * (pair.expert or 0)
        low, high = max(start, first), min(stop, first + num_rows)
        if low < high:
            b = self._b(pair, low - first, high - first)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused afterwards
                w[low - start : high - start] += (b * np.float32(pair.scale)) @ self._a(pair)

    def _a(self, pair: Pair) -> Floats:
        if self._held is None or self._held[0] is not pair:
            self._held = pair, pair.a.read(0, pair.a.shape[0])
        return self._held[1]

    def _b(self, pair: Pair, start: int, stop: int) -> Floats:
        """Rows in the checkpoint's order."""
        num_heads = num_turned_heads(pair.tensor, self._form.metadata) if pair.in_halves else 0
        if not num_heads:
            return pair.b.read(start, stop)
        head_dim = pair.b.shape[0] // num_heads
        first, last = start // head_dim * head_dim, -(-stop // head_dim) * head_dim
        rows: Floats = pair.b.read(first, last)[interleaved(start, stop, head_dim) - first]
        return rows


def _check(adapter: Adapter, form: Form) -> None:
    architecture = form.require("general.architecture", str)
    if adapter.architecture not in ("", architecture):
        raise UnsupportedModel(
            f"the adapter is one of '{adapter.architecture[:80]}', the checkpoint is '{architecture}': they do not fit"
        )
    if not adapter.pairs:
        raise BadCheckpoint("the adapter holds no pair of lora_a and lora_b")
    for pair in adapter.pairs:
        _check_pair(pair, form)
    for name, vector in adapter.vectors.items():
        info = form.tensors.get(name)
        if info is None or info.shape != vector.shape or info.type not in FLOAT_TYPES:
            raise BadCheckpoint(f"tensor {name} {vector.shape} has no counterpart in the checkpoint")


def _check_pair(pair: Pair, form: Form) -> None:
    info = form.tensors.get(pair.tensor)
    (rank, num_columns), (num_rows, b_rank) = pair.a.shape, pair.b.shape
    if info is None:
        raise BadCheckpoint(
            f"tensor {pair.a.name} belongs to {pair.tensor}, which the checkpoint does not have: "
            + ("its head is the embedding" if pair.tensor == "output.weight" else "it was trained for another model")
        )
    if rank != b_rank:
        raise BadCheckpoint(f"tensors {pair.a.name} {pair.a.shape} and {pair.b.name} {pair.b.shape} do not multiply")
    wanted = info.shape[-2:]
    is_expert = len(info.shape) == 3 and pair.expert is not None and pair.expert < info.shape[0]
    if (num_rows, num_columns) != wanted or (not is_expert and (len(info.shape) != 2 or pair.expert is not None)):
        raise BadCheckpoint(
            f"tensors {pair.a.name} and {pair.b.name} make {num_rows} x {num_columns}, but {pair.tensor} of the "
            f"checkpoint is {' x '.join(map(str, info.shape))}: the adapter was trained for another model"
        )
    if rank * num_columns > MAX_FACTOR_ELEMENTS:
        raise UnsupportedModel(
            f"tensor {pair.a.name} has {rank * num_columns} weights, more than {MAX_FACTOR_ELEMENTS}: "
            "merge the adapter with PEFT (merge_and_unload) and create the model from the result"
        )
