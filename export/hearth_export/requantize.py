"""A checkpoint of floats -> a GGUF file of quantized blocks: metadata as it is, tensors streamed by rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hearth_export.encode import encode
from hearth_export.errors import BadCheckpoint, UnsupportedModel, naming
from hearth_export.ggml import FLOAT_TYPES, Bytes, Floats, float_rows
from hearth_export.mix import NUMBERS, file_type, plan_types
from hearth_export.progress import Progress
from hearth_export.readers.values import TensorInfo
from hearth_export.writers.form import Form, open_form
from hearth_export.writers.gguf import uint32
from hearth_export.writers.rewrite import rewrite

QUANTIZATION_VERSION = 2  # `GGML_QNT_VERSION` in ggml.h
INTEGER_TYPES = frozenset({"I8", "I16", "I32", "I64"})


def requantize(source: Path, to: str, out: Path, report: Progress) -> int:
    """Writes the checkpoint `source`, a file or a directory, as a GGUF file of type `to` ("Q4_K_M", in any case) to
    `out`; the bytes of the new file.

    `out` does not change before the new file is whole and synced. Progress counts bytes of the source.
    Raises ExportError; but for the two refusals that concern no file, it names `source`.
    """
    target = file_type(to)
    with open_form(source) as form:
        report("reading", 0, 0)
        _require_floats(form)
        types = plan_types(form, target)

        def new_rows(info: TensorInfo, start: int, stop: int) -> Bytes:
            return _encode(form.rows(info.name, start, stop), info.type, types[info.name])

        with naming(source):
            return rewrite(form, out, types, _entries(target), new_rows, report, "quantizing")


def _require_floats(form: Form) -> None:
    if any(info.type not in FLOAT_TYPES | INTEGER_TYPES for info in form.tensors.values()):
        raise UnsupportedModel("quantization is only supported for F16, BF16 and F32 models")


def _entries(target: str) -> dict[str, bytes]:
    return {
        "general.quantization_version": uint32(QUANTIZATION_VERSION),
        "general.file_type": uint32(NUMBERS[target]),
    }


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
