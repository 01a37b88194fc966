from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from hearth_export.ggml import BLOCK_TYPES
from hearth_export.readers.gguf import open_gguf
from hearth_export.readers.values import TensorInfo
from hearth_export.writers.gguf import Plan, plan_file, uint32


def tensor(name: str, shape: tuple[int, ...], kind: str) -> TensorInfo:
    return TensorInfo(name, shape, kind, BLOCK_TYPES[kind].type_id, offset=12345, nbytes=0)


TENSORS = [tensor("a.weight", (3, 32), "Q4_0"), tensor("b", (5,), "F32"), tensor("ü.weight", (2, 3, 64), "Q8_0")]
SIZES = [3 * 18, 5 * 4, 6 * 68]


def written(path: Path, plan: Plan) -> Path:
    content = bytearray(plan.header + bytes(plan.num_bytes - len(plan.header)))
    for index, info in enumerate(plan.tensors):
        content[info.offset : info.offset + info.nbytes] = bytes([index + 1]) * info.nbytes
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_tensors_follow_one_another_aligned_and_padded(tmp_path: Path, alignment: int) -> None:
    plan = plan_file({"general.alignment": uint32(alignment)}, TENSORS, alignment)
    at = len(plan.header)
    assert at % alignment == 0
    for info, size in zip(plan.tensors, SIZES, strict=True):
        assert (info.offset, info.nbytes) == (at, size)
        at += -(-size // alignment) * alignment
    assert plan.num_bytes == at
    with open_gguf(written(tmp_path / "m", plan)) as found:
        assert list(found.tensors.values()) == plan.tensors
        assert all((found.rows(info.name, 0, 1) == i + 1).all() for i, info in enumerate(plan.tensors))


def test_other_reader_finds_metadata_and_tensors(tmp_path: Path) -> None:
    entries = {"general.architecture": struct.pack("<IQ5s", 8, 5, b"llama"), "llama.block_count": uint32(7)}
    reader = gguf.GGUFReader(str(written(tmp_path / "m", plan_file(entries, TENSORS, 32))))
    fields = {key: reader.get_field(key) for key in entries}
    assert [field.contents() for field in fields.values() if field] == ["llama", 7]
    assert [(t.name, t.tensor_type.name, tuple(reversed(t.shape.tolist()))) for t in reader.tensors] == [
        (info.name, info.type, info.shape) for info in TENSORS
    ]
    assert [int(np.asarray(t.data).view(np.uint8).min()) for t in reader.tensors] == [1, 2, 3]


def test_file_without_tensors_and_metadata_is_a_header(tmp_path: Path) -> None:
    plan = plan_file({}, [], 32)
    assert (len(plan.header), plan.num_bytes) == (32, 32)
    with open_gguf(written(tmp_path / "m", plan)) as found:
        assert (found.version, found.metadata, found.tensors) == (3, {}, {})
