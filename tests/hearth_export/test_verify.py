"""Data files that were damaged between writing and verifying: nothing is published, and the error says where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from hearth_export.errors import ExportError
from hearth_export.pipeline import DATA_FILE, GRAPH_FILE, convert
from hearth_export.precision import Goal
from hearth_export.readers.gguf import open_gguf
from hearth_export.verify import check_structure
from tests.hearth_export.converted import DIGEST, converted
from tests.tiny import write_tiny_gguf

Bytes = NDArray[np.uint8]
Change = Callable[[Bytes], None]  # of an initializer's bytes as (rows, bytes a row)


@dataclass(frozen=True, slots=True)
class Damage:
    """Changes an initializer's bytes in the data file once the weights are written."""

    root: Path
    initializer: str
    num_rows: int
    change: Change

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "verifying" and done == 0:
            (directory,) = (path for path in self.root.iterdir() if path.name.startswith(".tmp-"))
            self.inflict(directory)

    def inflict(self, directory: Path) -> None:
        place = place_of(directory / GRAPH_FILE, self.initializer)
        with (directory / DATA_FILE).open("r+b") as file:
            file.seek(place["offset"])
            values = np.frombuffer(file.read(place["length"]), np.uint8).reshape(self.num_rows, -1).copy()
            self.change(values)
            file.seek(place["offset"])
            file.write(values.tobytes())


def place_of(graph: Path, initializer: str) -> dict[str, int]:
    for tensor in onnx.load(str(graph), load_external_data=False).graph.initializer:
        if tensor.name == initializer:
            return {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
    raise AssertionError(f"{initializer} is no initializer")


def swap_rows(values: Bytes) -> None:
    values[[3, 9]] = values[[9, 3]]


def shuffle_signs_of_a_row(values: Bytes) -> None:
    values[7, 3::8] ^= 0x80


def flip_signs(values: Bytes) -> None:
    values[0, 3::4] ^= 0x80


def rotate(values: Bytes) -> None:
    values[:] = np.roll(values.reshape(-1), 1).reshape(values.shape)


def poison(values: Bytes) -> None:
    values[1, :4] = np.array([np.nan], np.float32).view(np.uint8)


def clear(values: Bytes) -> None:
    values[:] = 0


@pytest.mark.parametrize(
    ("initializer", "num_rows", "change", "tensor"),
    [
        ("layer.0.qkv.codes", 128, swap_rows, r"blk\.0\.attn_q\.weight, rows 0\.\.16"),
        ("layer.0.qkv.codes", 128, rotate, r"blk\.0\.attn_q\.weight, rows 0\.\.16"),
        ("layer.0.qkv.scales", 128, poison, r"blk\.0\.attn_q\.weight"),
        ("layer.1.gate_up.scales", 256, flip_signs, r"blk\.1\.ffn_gate\.weight, rows 0\.\.64"),
        ("layer.1.gate_up.scales", 256, shuffle_signs_of_a_row, r"blk\.1\.ffn_gate\.weight, rows 0\.\.64"),
        ("layer.1.o.zero_points", 64, clear, r"blk\.1\.attn_output\.weight"),
        ("layer.1.down.scales", 64, clear, r"blk\.1\.ffn_down\.weight"),
        ("embedding.codes", 265, rotate, r"token_embd\.weight"),
        ("embedding.scales", 265, poison, r"token_embd\.weight"),
    ],
)
def test_damaged_weights_are_found_and_nothing_is_published(
    tmp_path: Path, initializer: str, num_rows: int, change: Change, tensor: str
) -> None:
    source, root = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "variants"
    with pytest.raises(ExportError, match=rf"tiny\.gguf: tensor {tensor}.*differ by.*nothing was published"):
        convert(source, DIGEST, root, Goal.BYTES, Damage(root, initializer, num_rows, change))
    assert list(root.iterdir()) == []


def test_damaged_offsets_are_found(tmp_path: Path) -> None:
    source, root = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "variants"
    with pytest.raises(ExportError, match=r"tensor blk\.0\.attn_q\.weight"):
        convert(source, DIGEST, root, Goal.FIDELITY, Damage(root, "layer.0.qkv.offsets", 128, clear))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("initializer", ["layer.1.ffn_norm.weight", "hidden.weight", "layer.0.qkv.bias"])
def test_damaged_vectors_are_found(tmp_path: Path, initializer: str) -> None:
    source, root = write_tiny_gguf(tmp_path / "tiny.gguf", biases=True), tmp_path / "variants"
    with pytest.raises(ExportError, match=r"tensor \S+: the converted values are not .*; nothing was published"):
        convert(source, DIGEST, root, Goal.BYTES, Damage(root, initializer, 1, clear))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("initializer", ["embedding.weights", "layer.1.gate_up.weights"])
def test_damaged_floats_are_found(tmp_path: Path, initializer: str) -> None:
    source, root = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "variants"
    with pytest.raises(ExportError, match=r"tensor \S+, rows .*differ by"):
        convert(source, DIGEST, root, Goal.FLOAT, Damage(root, initializer, 1, rotate))
    assert list(root.iterdir()) == []


def test_data_file_that_ends_too_early_is_found(tiny_variant: Path) -> None:
    size = (tiny_variant / DATA_FILE).stat().st_size
    check_structure(tiny_variant / GRAPH_FILE, size)
    with pytest.raises(ExportError, match=rf"initializer .* ends beyond the data file of {size - 1} bytes"):
        check_structure(tiny_variant / GRAPH_FILE, size - 1)


def test_graph_that_onnx_runtime_refuses_is_refused_with_its_reason(tiny_variant: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny_variant / GRAPH_FILE), load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(tmp_path / "bad.onnx"))
    with pytest.raises(ExportError, match=r"ONNX Runtime refuses .*NoSuchOperator"):
        check_structure(tmp_path / "bad.onnx", 1 << 40)


def test_all_zero_weights_are_no_error(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    with open_gguf(source) as gguf, source.open("r+b") as file:
        for info in gguf.tensors.values():
            file.seek(info.offset)
            file.write(bytes(info.nbytes if info.name.startswith("blk.") else 0))
    assert (converted(source, tmp_path / "variants") / GRAPH_FILE).exists()
