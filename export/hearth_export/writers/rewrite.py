"""One checkpoint -> a GGUF file: the header planned, then every tensor streamed by rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from hearth_export.errors import ExportError
from hearth_export.ggml import BLOCK_TYPES, Bytes
from hearth_export.progress import Progress
from hearth_export.readers.header import DEFAULT_ALIGNMENT
from hearth_export.readers.values import TensorInfo
from hearth_export.writer import DataFile, require_space, staged_file
from hearth_export.writers.form import Form
from hearth_export.writers.gguf import Plan, plan_file

CHUNK_ELEMENTS = 1 << 16  # weights that are worked on at once: their arrays stay in a core's cache
RELEASE_BYTES = 8 << 20  # of the source that are mapped at a time

# name, first row, row after the last -> the rows in the new type
NewRows = Callable[[TensorInfo, int, int], Bytes]


def rewrite(
    form: Form,
    out: Path,
    types: Mapping[str, str],
    entries: Mapping[str, bytes],
    new_rows: NewRows,
    report: Progress,
    stage: str,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> int:
    """Writes `form` to `out`, each tensor in its type of `types`, with `entries` over its metadata; the file's bytes.

    `new_rows` is asked for the rows of each tensor in turn. `out` does not change before the new file is whole and
    synced. Progress counts bytes of the source. Raises ExportError.
    """
    plan = _plan(form, types, entries)
    require_space(out.parent, plan.num_bytes)
    with staged_file(out) as temp, DataFile(temp, plan.num_bytes) as file:
        done, total = 0, sum(info.nbytes for info in form.tensors.values())
        report(stage, 0, total)
        file.write(0, np.frombuffer(plan.header, np.uint8))
        for tensor in plan.tensors:
            info = form.tensors[tensor.name]
            for start, stop in _chunks(info, chunk_elements):
                file.write(tensor.offset + start * tensor.row_bytes, _rows(new_rows, info, start, stop))
                before, done = done, done + (stop - start) * info.row_bytes
                if done // RELEASE_BYTES > before // RELEASE_BYTES:
                    form.release_all()
                report(stage, done, total)
        report(stage, total, total)
    return plan.num_bytes


def _plan(form: Form, types: Mapping[str, str], entries: Mapping[str, bytes]) -> Plan:
    values = {key: form.raw_value(key) for key in form.metadata} | dict(entries)
    tensors = [
        msgspec.structs.replace(info, type=types[info.name], type_id=BLOCK_TYPES[types[info.name]].type_id)
        for info in form.tensors.values()
    ]
    return plan_file(values, tensors, form.get("general.alignment", int) or DEFAULT_ALIGNMENT)


def _chunks(info: TensorInfo, num_elements: int) -> Iterator[tuple[int, int]]:
    step = max(1, num_elements // info.shape[-1])
    for start in range(0, info.num_rows, step):
        yield start, min(start + step, info.num_rows)


def _rows(new_rows: NewRows, info: TensorInfo, start: int, stop: int) -> Bytes:
    try:
        return new_rows(info, start, stop)
    except ExportError as error:
        raise type(error)(f"tensor {info.name}, rows {start}..{stop}: {error}") from error
