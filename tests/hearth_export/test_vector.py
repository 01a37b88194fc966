from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.graph import Region
from hearth_export.quantize import Part
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.vector import Vector, check_vector
from tests.hearth_export.gguf_writer import Tensor, write_gguf

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def opened(path: Path) -> GGUF:
    tensors = [
        Tensor("plain", (4,), "F32", ROWS[0]),
        Tensor("half", (4,), "F16", ROWS[1]),
        Tensor("by_expert", (3, 4), "F32", ROWS),
        Tensor("mate", (3, 4), "F32", -ROWS),
        Tensor("codes", (32,), "Q8_0", np.ones(32, np.float32)),
        Tensor("damaged", (4,), "F32", np.array([1, np.inf, 1, 1], np.float32)),
    ]
    return open_gguf(write_gguf(path / "vectors.gguf", {}, tensors))


def values(gguf: GGUF, *parts: Part, optional: bool = False) -> list[float]:
    for part in parts:
        check_vector(gguf, part, optional)
    found: list[float] = Vector(Region(0, 0), parts, optional).read(gguf).tolist()
    return found


def test_parts_come_one_after_the_other(tmp_path: Path) -> None:
    assert values(opened(tmp_path), Part("half", 4), Part("plain", 4)) == [4, 5, 6, 7, 0, 1, 2, 3]


def test_absent_part_of_an_optional_vector_is_zeros(tmp_path: Path) -> None:
    assert values(opened(tmp_path), Part("absent", 2), Part("plain", 4), optional=True) == [0, 0, 0, 1, 2, 3]


def test_values_of_interleaved_rows_come_as_halves_of_each_head(tmp_path: Path) -> None:
    assert values(opened(tmp_path), Part("plain", 4, head_dim=4)) == [0, 2, 1, 3]


def test_values_of_one_expert_alternate_with_its_mates(tmp_path: Path) -> None:
    assert values(opened(tmp_path), Part("by_expert", 8, expert=1, mate="mate")) == [4, -4, 5, -5, 6, -6, 7, -7]


@pytest.mark.parametrize(
    ("part", "error", "sentence"),
    [
        (Part("absent", 4), BadCheckpoint, "tensor absent is missing"),
        (Part("plain", 5), BadCheckpoint, r"tensor plain has the shape \(4,\), expected \(5,\)"),
        (Part("by_expert", 4), BadCheckpoint, r"tensor by_expert has the shape \(3, 4\), expected \(4,\)"),
        (Part("by_expert", 4, expert=3), BadCheckpoint, r"tensor by_expert has the shape \(3, 4\)"),
        (Part("plain", 4, expert=0), BadCheckpoint, r"tensor plain has the shape \(4,\), expected \(4, 4\)"),
        (Part("by_expert", 8, expert=0, mate="absent"), BadCheckpoint, "tensor absent is missing"),
        (Part("codes", 32), UnsupportedModel, "tensor codes is of type Q8_0; vectors are expected as F32"),
        (Part("damaged", 4), BadCheckpoint, "tensor damaged holds a value that is not finite"),
    ],
)
def test_what_is_no_vector_of_floats_is_refused(
    tmp_path: Path, part: Part, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        values(opened(tmp_path), part)
