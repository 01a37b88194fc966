"""A GGUF file of floats -> a GGUF file of quantized blocks: metadata as it is, tensors streamed by rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from hearth_export.encode import encode
from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel, naming
from hearth_export.ggml import BLOCK_TYPES, FLOAT_TYPES, Bytes, Floats, float_rows
from hearth_export.mix import NUMBERS, file_type, plan_types
from hearth_export.progress import Progress
from hearth_export.readers.gguf import DEFAULT_ALIGNMENT, GGUF, TensorInfo, open_gguf
from hearth_export.writer import DataFile, require_space, staged_file
from hearth_export.writers.gguf import Plan, plan_file, uint32

CHUNK_ELEMENTS = 1 << 16  # weights quantized at once: their arrays stay in a core's cache
RELEASE_BYTES = 8 << 20  # of the source that are mapped at a time
QUANTIZATION_VERSION = 2  # `GGML_QNT_VERSION` in ggml.h
INTEGER_TYPES = frozenset({"I8", "I16", "I32", "I64"})


def requantize(source: Path, to: str, out: Path, report: Progress) -> int:
    """Writes the GGUF file `source` as file type `to` ("Q4_K_M", in any case) to `out`; the bytes of the new file.

    `out` does not change before the new file is whole and synced. Progress counts bytes of the source.
    Raises ExportError; but for the two refusals that concern no file, it names `source`.
    """
    target = file_type(to)
    with open_gguf(source) as gguf:
        report("reading", 0, 0)
        _require_floats(gguf)
        with naming(source):
            plan = _plan(gguf, target)
            require_space(out.parent, plan.num_bytes)
            with staged_file(out) as temp, DataFile(temp, plan.num_bytes) as file:
                _write(gguf, plan, file, report)
    return plan.num_bytes


def _require_floats(gguf: GGUF) -> None:
    if any(info.type not in FLOAT_TYPES | INTEGER_TYPES for info in gguf.tensors.values()):
        raise UnsupportedModel("quantization is only supported for F16, BF16 and F32 models")


def _plan(gguf: GGUF, target: str) -> Plan:
    entries = {key: gguf.raw_value(key) for key in gguf.metadata}
    entries["general.quantization_version"] = uint32(QUANTIZATION_VERSION)
    entries["general.file_type"] = uint32(NUMBERS[target])
    types = plan_types(gguf, target)
    tensors = [
        msgspec.structs.replace(info, type=types[info.name], type_id=BLOCK_TYPES[types[info.name]].type_id)
        for info in gguf.tensors.values()
    ]
    return plan_file(entries, tensors, gguf.get("general.alignment", int, DEFAULT_ALIGNMENT))


def _write(gguf: GGUF, plan: Plan, file: DataFile, report: Progress) -> None:
    done, total = 0, sum(info.nbytes for info in gguf.tensors.values())
    report("quantizing", 0, total)
    file.write(0, np.frombuffer(plan.header, np.uint8))
    for tensor in plan.tensors:
        info = gguf.tensor(tensor.name)
        for start, stop, rows in _encoded(gguf, info, tensor.type):
            file.write(tensor.offset + start * tensor.row_bytes, rows)
            before, done = done, done + (stop - start) * info.row_bytes
            if done // RELEASE_BYTES > before // RELEASE_BYTES:
                gguf.release_all()
            report("quantizing", done, total)
    report("quantizing", total, total)


def _encoded(gguf: GGUF, info: TensorInfo, type_name: str) -> Iterator[tuple[int, int, Bytes]]:
    """The tensor's rows as blocks of the type: (first row, row after the last, rows)."""
    step = max(1, CHUNK_ELEMENTS // info.shape[-1])
    for start in range(0, info.num_rows, step):
        stop = min(start + step, info.num_rows)
        try:
            yield start, stop, _encode(gguf.rows(info.name, start, stop), info.type, type_name)
        except ExportError as error:
            raise type(error)(f"tensor {info.name}, rows {start}..{stop}: {error}") from error


def _encode(raw: Bytes, old: str, new: str) -> Bytes:
    if old not in FLOAT_TYPES:
        return raw
    w = float_rows(raw, old)
    _refuse_non_finite(w)
    return raw if old == new else encode(new, w)


def _refuse_non_finite(w: Floats) -> None:
    finite = np.isfinite(w)
    if not finite.all():
        raise BadCheckpoint(f"the weight {w[~finite][0]} is not finite: the weights are damaged")
