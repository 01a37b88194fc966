from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.readers.safetensors import INDEX, SINGLE, SafetensorsFile, open_safetensors, open_shards
from tests.hearth_export.safetensors_writer import Stored, safetensors

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
TWO = {"first": Stored(MATRIX), "second": Stored(MATRIX[0], "F16")}


def opened(path: Path, data: bytes) -> SafetensorsFile:
    file = path / "model.safetensors"
    file.write_bytes(data)
    return open_safetensors(file)


def assert_refused(path: Path, data: bytes, shown: str) -> None:
    with pytest.raises(BadCheckpoint, match=shown) as error:
        opened(path, data)
    assert str(path / "model.safetensors") in str(error.value)


def test_tensors_come_back_as_written(tmp_path: Path) -> None:
    file = opened(tmp_path, safetensors(TWO))
    first, second = file.tensors["first"], file.tensors["second"]
    assert (first.dtype, first.shape, second.dtype, second.shape) == ("F32", (3, 4), "F16", (4,))
    np.testing.assert_array_equal(first.data().view(np.float32).reshape(3, 4), MATRIX)
    np.testing.assert_array_equal(second.data().view(np.float16), MATRIX[0].astype(np.float16))
    first.release()
    np.testing.assert_array_equal(first.data().view(np.float32).reshape(3, 4), MATRIX)


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    assert set(opened(tmp_path, safetensors(TWO)).tensors) == {"first", "second"}


def test_empty_tensor_is_read(tmp_path: Path) -> None:
    file = opened(tmp_path, safetensors({"none": Stored(np.zeros((0, 4), np.float32)), **TWO}))
    assert file.tensors["none"].data().size == 0


def test_dtype_that_is_not_converted_is_read_over(tmp_path: Path) -> None:
    file = opened(tmp_path, safetensors({"ids": Stored(np.arange(3), "I64"), **TWO}))
    assert file.tensors["ids"].dtype == "I64"


def test_data_outlives_the_file(tmp_path: Path) -> None:
    file = opened(tmp_path, safetensors(TWO))
    data = file.tensors["first"].data()
    file.close()
    assert data.view(np.float32)[11] == 11


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\1\0\0", "truncated"),
        (b"\xff" * 8, "header length 18446744073709551615"),
        ((100).to_bytes(8, "little") + b"{}", "header length 100 is beyond the file's 10 bytes"),
        ((9).to_bytes(8, "little") + b"[1, 2, 3]", "header is damaged"),
        ((9).to_bytes(8, "little") + b"{not json", "header is damaged"),
        ((8).to_bytes(8, "little") + b'{"\xff": 1}', "header is damaged"),
        (b"GGUF" + b"\0" * 100, "no safetensors file"),
    ],
)
def test_damaged_header_is_refused(tmp_path: Path, data: bytes, shown: str) -> None:
    assert_refused(tmp_path, data, shown)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, b"", "empty")


def entry(dtype: str = "F32", shape: object = (3, 4), offsets: object = (0, 48)) -> dict[str, Any]:
    return {"first": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"first": {"dtype": "F32", "shape": [3, 4]}}, "tensor first: .*entry is damaged.*data_offsets"),
        ({"first": 7}, "tensor first: .*entry is damaged"),
        (entry(offsets=[0]), "entry is damaged"),
        (entry(offsets=["0", "48"]), "entry is damaged"),
        (entry(dtype="F7"), "dtype F7 is unknown"),
        (entry(shape=[3, 4, -1]), "is no shape"),
        (entry(shape=[1 << 60]), "is no shape"),
        (entry(shape=[1] * 9), "is no shape"),
        (entry(shape=[3, 5]), r"\[3, 5\] of F32 does not take the 48 bytes"),
        (entry(offsets=[0, 1 << 40]), "do not lie in the 56 bytes of data: the file is truncated"),
        (entry(offsets=[48, 0]), "do not lie in"),
        (entry(offsets=[-4, 44]), "do not lie in"),
        (entry(offsets=[8, 56]), "tensor second lies inside the tensor before it"),
    ],
)
def test_entry_that_cannot_be_is_refused_naming_the_tensor(tmp_path: Path, changes: dict[str, Any], shown: str) -> None:
    assert_refused(tmp_path, safetensors(TWO, changes), shown)


def test_file_cut_off_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = safetensors(TWO)
    for length in range(len(whole)):
        with pytest.raises(BadCheckpoint):
            opened(tmp_path, whole[:length])


def test_hostile_name_is_quoted_short_and_printable(tmp_path: Path) -> None:
    changes = {"\x1b[31m" + "x" * 5000: {"dtype": "F7", "shape": [], "data_offsets": [0, 0]}}
    with pytest.raises(BadCheckpoint) as error:
        opened(tmp_path, safetensors(TWO, changes))
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 500


def test_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    nested = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert_refused(tmp_path, len(nested).to_bytes(8, "little") + nested, "damaged")


def test_reading_holds_no_tensor(tmp_path: Path) -> None:
    file = opened(tmp_path, safetensors({"large": Stored(np.zeros((4096, 1024), np.float32))}))
    tracemalloc.start()
    try:
        assert int(file.tensors["large"].data()[::4096].sum()) == 0
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "directory":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        open_safetensors(path)


# -- several files -----------------------------------------------------------------------------------------------------


def write_shards(directory: Path, weight_map: object) -> Path:
    for name, tensor in TWO.items():
        (directory / f"{name}.safetensors").write_bytes(safetensors({name: tensor}))
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return directory


def test_files_of_an_index_are_opened_once_each(tmp_path: Path) -> None:
    files = open_shards(write_shards(tmp_path, {"first": "first.safetensors", "second": "second.safetensors"}))
    assert [set(file.tensors) for file in files] == [{"first"}, {"second"}]


def test_single_file_of_another_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(safetensors(TWO))
    (file,) = open_shards(tmp_path)
    assert set(file.tensors) == {"first", "second"}


def test_usual_name_goes_before_others(tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"")
    (tmp_path / SINGLE).write_bytes(safetensors(TWO))
    (file,) = open_shards(tmp_path)
    assert file.path.name == SINGLE


@pytest.mark.parametrize(
    ("weight_map", "shown"),
    [
        ({"first": "gone.safetensors"}, r"names the file gone\.safetensors, which is missing"),
        ({"first": "second.safetensors"}, r"second\.safetensors: tensor first is missing"),
        ({"first": "../first.safetensors"}, "no name for a file"),
        ({"first": "/etc/passwd"}, "no name for a file"),
        ({"first": ""}, "no name for a file"),
        ({"first": ".."}, "no name for a file"),
        ({"first": "a\0b"}, "no name for a file"),
        ({}, "0 files"),
        ({"first": 1}, "index is damaged"),
        ([], "index is damaged"),
    ],
)
def test_index_that_cannot_be_followed_is_refused(tmp_path: Path, weight_map: object, shown: str) -> None:
    with pytest.raises(BadCheckpoint, match=shown):
        open_shards(write_shards(tmp_path, weight_map))


def test_directory_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_shards(tmp_path)


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match=r"'pytorch_model\.bin' is not read: save the model as safetensors"):
        open_shards(tmp_path)


def test_single_file_makes_an_index_superfluous(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(safetensors(TWO))
    (file,) = open_shards(write_shards(tmp_path, {"first": "gone.safetensors"}))
    assert file.path.name == SINGLE
