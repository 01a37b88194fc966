from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.graph import Graph
from hearth_export.precision import Goal
from hearth_export.quantize import Matrix, Part, plan_layout, plan_matrix
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.stream import write_matrices
from hearth_export.writer import DataFile
from tests.hearth_export.gguf_writer import Tensor, write_gguf
from tests.hearth_export.random_blocks import random_weights

COLUMNS, ROWS = 4096, 700  # six chunks
TYPES = {"a": "Q4_K", "b": "Q6_K", "c": "BF16", "d": "Q4_1"}


def checkpoint(folder: Path) -> GGUF:
    generator = np.random.default_rng(1)
    tensors = [
        Tensor(name, (ROWS, COLUMNS), kind, random_weights(kind, ROWS, COLUMNS, generator))
        for name, kind in TYPES.items()
    ]
    return open_gguf(write_gguf(folder / "weights.gguf", {}, tensors))


def planned(gguf: GGUF, goal: Goal = Goal.BYTES) -> tuple[Graph, list[Matrix]]:
    graph = Graph("data")
    parts = [Part(name, ROWS) for name in TYPES]
    return graph, [plan_matrix(graph, part.tensor, (part,), plan_layout(gguf, part, COLUMNS, goal)) for part in parts]


@pytest.mark.parametrize("goal", [Goal.BYTES, Goal.PREFILL])
def test_file_is_the_same_whatever_the_number_of_threads(tmp_path: Path, goal: Goal) -> None:
    gguf = checkpoint(tmp_path)
    graph, matrices = planned(gguf, goal)
    found = []
    for num_threads in (1, 2, 4):
        path = tmp_path / f"data{num_threads}"
        with DataFile(path, graph.data_bytes) as file:
            written = list(write_matrices(matrices, gguf, file, num_threads))
        assert len(written) == 6 * len(TYPES)
        assert sum(written) == sum(matrix.num_bytes for matrix in matrices)
        found.append(path.read_bytes())
    assert found[0] == found[1] == found[2]
    assert np.count_nonzero(np.frombuffer(found[0], np.uint8)) > len(found[0]) // 2


@pytest.mark.parametrize("num_threads", [1, 3])
def test_damaged_chunk_stops_all_threads_and_names_its_tensor_and_rows(tmp_path: Path, num_threads: int) -> None:
    gguf = checkpoint(tmp_path)
    graph, matrices = planned(gguf)
    info = gguf.tensors["b"]
    with (tmp_path / "weights.gguf").open("r+b") as raw:
        raw.seek(info.offset + 400 * info.row_bytes + 208)  # the scale of a block
        raw.write(np.array([np.inf], np.float16).tobytes())
    with DataFile(tmp_path / "data", graph.data_bytes) as file:
        written = write_matrices(matrices, gguf, file, num_threads)
        with pytest.raises(BadCheckpoint, match=r"tensor b, rows 384\.\.512: row 16 block 0 .*inf"):
            list(written)
        assert workers() == []


def test_leaving_early_waits_for_what_was_begun(tmp_path: Path) -> None:
    gguf = checkpoint(tmp_path)
    graph, matrices = planned(gguf)
    with DataFile(tmp_path / "data", graph.data_bytes) as file:
        written = write_matrices(matrices, gguf, file, 3)
        next(written)
        assert workers() != []
        written.close()
        assert workers() == []


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("chunks")]
