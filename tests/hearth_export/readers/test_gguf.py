from __future__ import annotations

import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
from gguf import quants

from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.ggml import BLOCK_TYPES, dequantize
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.readers.values import MetaArray
from tests.hearth_export.gguf_writer import (
    Meta,
    Tensor,
    array,
    header,
    key_value,
    string,
    tensor_info,
    typed,
    write_gguf,
)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[GGUF]:
    with open_gguf(smollm2_gguf) as file:
        yield file


def write(path: Path, *parts: bytes) -> Path:
    path = path / "hostile.gguf"
    path.write_bytes(b"".join(parts))
    return path


# -- what a sound file says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_every_kind_of_value_comes_back_as_written(tmp_path: Path, version: int) -> None:
    numbers = {
        kind: np.dtype(kind).type(value)
        for kind, value in {"u1": 200, "i1": -3, "u2": 60000, "i2": -9, "i4": -7, "u8": 1 << 63, "f8": 0.1}.items()
    }
    path = write_gguf(
        tmp_path / "a.gguf",
        {"text": "héarth", "yes": True, "whole": 7, "real": 0.5, "negative": -1, "lists": ["a", "ü", ""], **numbers},
        version=version,
    )
    with open_gguf(path) as file:
        words = file.require("lists", MetaArray)
        assert file.version == version
        assert file.metadata["text"] == "héarth"
        assert file.metadata["yes"] is True
        assert (file.metadata["whole"], file.metadata["real"], file.metadata["negative"]) == (7, 0.5, -1)
        assert (words.element, len(words), words.tolist()) == ("string", 3, ["a", "ü", ""])
        assert {kind: file.metadata[kind] for kind in numbers} == numbers


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "?", "u8", "i8", "f8"])
def test_array_of_numbers_keeps_its_type(tmp_path: Path, kind: str) -> None:
    values = np.array([0, 1, 0, 1], kind)
    with open_gguf(write_gguf(tmp_path / "a.gguf", {"odd": "x", "values": values})) as file:
        found = file.require("values", MetaArray)
        assert found.numpy().dtype == values.dtype
        assert found.element == values.dtype.name
        assert found.tolist() == values.tolist()


def test_strings_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, header(0, 1), array("words", 8, 2, string(b"\xff\xfe") + string("ok")))
    with open_gguf(path) as file:
        words = list(file.require("words", MetaArray).strings())
    assert [word.encode("utf-8", "surrogateescape") for word in words] == [b"\xff\xfe", b"ok"]


def test_raw_value_is_what_is_stored_type_id_first(tmp_path: Path) -> None:
    metadata: dict[str, Meta] = {"text": "hé", "one": 1, "words": ["a"], "empty": np.array([], np.int8), "last": True}
    with open_gguf(write_gguf(tmp_path / "a.gguf", metadata)) as file:
        found = {key: file.raw_value(key) for key in file.metadata}
    assert found == {
        "text": struct.pack("<IQ", 8, 3) + "hé".encode(),
        "one": struct.pack("<II", 4, 1),
        "words": struct.pack("<IIQQ", 9, 8, 1, 1) + b"a",
        "empty": struct.pack("<IIQ", 9, 1, 0),
        "last": struct.pack("<IB", 7, 1),
    }


def test_array_of_strings_is_no_array_of_numbers(tmp_path: Path) -> None:
    with open_gguf(write_gguf(tmp_path / "a.gguf", {"words": ["a"], "numbers": [1]})) as file:
        with pytest.raises(TypeError, match="words holds strings"):
            file.require("words", MetaArray).numpy()
        with pytest.raises(TypeError, match="numbers holds int32"):
            next(file.require("numbers", MetaArray).strings())


def test_shapes_are_in_numpy_order_and_rows_are_the_stored_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(5).normal(size=(2, 3, 64)).astype(np.float32)
    bias = np.arange(64, dtype=np.float32)
    path = write_gguf(
        tmp_path / "a.gguf", {}, [Tensor("experts", (2, 3, 64), "Q8_0", values), Tensor("bias", (64,), "F32", bias)]
    )
    with open_gguf(path) as file:
        info = file.tensor("experts")
        assert (info.shape, info.type, info.num_rows, info.row_bytes) == ((2, 3, 64), "Q8_0", 6, 68)
        expected = np.asarray(quants.quantize(values, reference.GGMLQuantizationType.Q8_0)).reshape(6, 68)
        np.testing.assert_array_equal(file.rows("experts", 1, 5), expected[1:5])
        np.testing.assert_array_equal(file.rows("bias", 0, 1).view(np.float32)[0], bias)
        assert file.rows("bias", 1, 1).shape == (0, 256)


def test_rows_stay_readable_after_close_and_cannot_be_written(tmp_path: Path) -> None:
    with open_gguf(write_gguf(tmp_path / "a.gguf", {}, [Tensor("bias", (4,), "F32", np.ones(4, np.float32))])) as file:
        rows = file.rows("bias", 0, 1)
    assert rows.view(np.float32).tolist() == [[1, 1, 1, 1]]
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1


def test_rows_outside_the_tensor_are_refused(smollm2: GGUF) -> None:
    with pytest.raises(IndexError, match=r"rows 3\.\.577 of tensor blk\.0\.attn_q\.weight, which has 576"):
        smollm2.rows("blk.0.attn_q.weight", 3, 577)


def test_custom_alignment_is_honoured(tmp_path: Path) -> None:
    ones = np.ones(3, np.float32)
    path = write_gguf(
        tmp_path / "a.gguf",
        {"general.alignment": 4096},
        [Tensor("a", (3,), "F32", ones), Tensor("b", (3,), "F32", 2 * ones)],
        alignment=4096,
    )
    with open_gguf(path) as file:
        assert file.tensor("b").offset % 4096 == 0
        assert file.rows("b", 0, 1).view(np.float32).tolist() == [[2, 2, 2]]


# -- the real file ----------------------------------------------------------------------------------------------------


def test_real_file_agrees_with_the_gguf_package(smollm2: GGUF) -> None:
    expected = reference.GGUFReader(smollm2.path)
    assert [tensor.name for tensor in expected.tensors] == list(smollm2.tensors)
    for tensor in expected.tensors:
        info = smollm2.tensor(tensor.name)
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
        assert (info.type, info.offset, info.nbytes) == (tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)
    for key, value in smollm2.metadata.items():
        found = value.tolist() if isinstance(value, MetaArray) else value
        assert found == expected.fields[key].contents()


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.7.ffn_down.weight", "blk.29.attn_v.weight"])
def test_real_weights_are_bit_identical_to_the_reference(smollm2: GGUF, name: str) -> None:
    info = smollm2.tensor(name)
    raw = smollm2.rows(name, 0, 192)
    expected = quants.dequantize(raw, reference.GGMLQuantizationType[info.type])
    np.testing.assert_array_equal(dequantize(BLOCK_TYPES[info.type].unpack(raw)), expected)


def test_released_rows_leave_memory_and_read_the_same_again(smollm2: GGUF) -> None:
    name = "token_embd.weight"
    num_rows = smollm2.tensor(name).num_rows
    before = int(smollm2.rows(name, 0, num_rows).sum(dtype=np.int64))
    held = resident_bytes()
    smollm2.release(name)
    assert held - resident_bytes() > smollm2.tensor(name).nbytes * 3 // 4
    assert int(smollm2.rows(name, 0, num_rows).sum(dtype=np.int64)) == before


def test_released_file_leaves_memory_and_reads_the_same_again(smollm2: GGUF) -> None:
    names = ["blk.0.ffn_up.weight", "blk.29.ffn_up.weight"]
    before = [int(smollm2.rows(name, 0, 1536).sum(dtype=np.int64)) for name in names]
    held = resident_bytes()
    smollm2.release_all()
    assert held - resident_bytes() > sum(smollm2.tensor(name).nbytes for name in names) * 3 // 4
    assert [int(smollm2.rows(name, 0, 1536).sum(dtype=np.int64)) for name in names] == before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# -- typed access -----------------------------------------------------------------------------------------------------


def test_absent_key_gives_the_default(smollm2: GGUF) -> None:
    assert smollm2.get("llama.rope.scaling.factor", float, 1.0) == 1.0
    assert smollm2.get("llama.rope.scaling.factor", float) is None


def test_float_may_be_stored_as_an_integer(tmp_path: Path) -> None:
    with open_gguf(write_gguf(tmp_path / "a.gguf", {"base": 10000})) as file:
        assert isinstance(file.get("base", float), float)


@pytest.mark.parametrize("value", ["text", True, 0.5, ["a"]])
def test_value_of_another_type_is_refused_naming_file_key_and_value(
    tmp_path: Path, value: str | bool | float | list[str]
) -> None:
    path = write_gguf(tmp_path / "a.gguf", {"llama.block_count": value})
    with open_gguf(path) as file, pytest.raises(BadCheckpoint) as error:
        file.get("llama.block_count", int)
    shown = "array of 1 string" if isinstance(value, list) else repr(str(value))
    assert str(path) in str(error.value)
    assert "llama.block_count" in str(error.value)
    assert shown in str(error.value)


def test_missing_key_and_tensor_are_refused_by_name(smollm2: GGUF) -> None:
    with pytest.raises(BadCheckpoint, match=r"gemma\.block_count is missing"):
        smollm2.require("gemma.block_count", int)
    with pytest.raises(BadCheckpoint, match=r"tensor output\.weight is missing"):
        smollm2.tensor("output.weight")


# -- bad files ---------------------------------------------------------------------------------------------------------

HUGE = 1 << 62
BIAS = tensor_info("bias", (8,), 0, 0)
BAD: dict[str, tuple[bytes, type[ExportError], str]] = {
    "empty": (b"", BadCheckpoint, "the file is empty"),
    "magic": (header(0, 0, magic=b"GGML"), BadCheckpoint, "magic: b'GGML'"),
    "short_magic": (b"GG", BadCheckpoint, "magic: b'GG'"),
    "no_version": (b"GGUF\x03\0", BadCheckpoint, "version: the file is truncated"),
    "version_1": (header(0, 0, version=1), UnsupportedModel, "version: GGUF version 1"),
    "version_4": (header(0, 0, version=4), UnsupportedModel, "version: GGUF version 4"),
    "big_endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedModel, "version: the file is big-endian"),
    "no_counts": (header(0, 0)[:12], BadCheckpoint, "tensor_count: the file is truncated"),
    "tensor_count": (header(HUGE, 0), BadCheckpoint, f"tensor_count: {HUGE}"),
    "tensor_count_for_the_size": (header(1000, 0), BadCheckpoint, "tensor_count: 1000 does not fit"),
    "key_count": (header(0, HUGE), BadCheckpoint, f"metadata_kv_count: {HUGE}"),
    "key_count_for_the_size": (header(0, 5) + bytes(13), BadCheckpoint, "metadata_kv_count: 5 does not fit"),
    "key_length": (header(0, 1) + struct.pack("<QQ", HUGE, 0), BadCheckpoint, f"metadata key 0: a name of {HUGE}"),
    "key_past_the_end": (header(0, 1) + struct.pack("<QQ", 99, 0), BadCheckpoint, "metadata key 0: .* truncated: 99"),
    "key_not_utf8": (
        header(0, 1) + typed(b"\xff\xfe", 0, b"\1"),
        BadCheckpoint,
        r"metadata key 0: b'\\xff\\xfe' is not",
    ),
    "key_empty": (header(0, 1) + typed("", 0, b"\1"), BadCheckpoint, "metadata key 0 is empty"),
    "key_twice": (header(0, 2) + 2 * key_value("twin", 1), BadCheckpoint, "twin: metadata key 1 is a second"),
    "key_with_control_characters": (
        header(0, 2) + 2 * key_value("a\x1b[2J", 1),
        BadCheckpoint,
        r"'a\\x1b\[2J': metadata key 1",
    ),
    "value_type": (header(0, 1) + typed("odd", 13, bytes(8)), UnsupportedModel, "odd: value type 13"),
    "value_truncated": (header(0, 1) + typed("wide", 10, bytes(4)), BadCheckpoint, "wide: the file is truncated: 8"),
    "bool": (header(0, 1) + typed("flag", 7, b"\2"), BadCheckpoint, "flag: 2 is not a bool"),
    "string_length": (
        header(0, 1) + typed("text", 8, struct.pack("<Q", HUGE)),
        BadCheckpoint,
        f"text: the file is truncated: {HUGE} bytes",
    ),
    "array_length": (header(0, 1) + array("many", 5, HUGE, b""), BadCheckpoint, f"many: .*truncated: {4 * HUGE} bytes"),
    "array_of_strings_length": (
        header(0, 1) + array("words", 8, HUGE, b""),
        BadCheckpoint,
        f"words: .* {HUGE} strings",
    ),
    "array_of_strings_for_the_size": (
        header(0, 1) + array("words", 8, 1000, b""),
        BadCheckpoint,
        "words: .*truncated: 8000 bytes",
    ),
    "array_string_past_the_end": (
        header(0, 1) + array("words", 8, 2, struct.pack("<QQ", HUGE, 0)),
        BadCheckpoint,
        "words: the file is truncated",
    ),
    "array_last_string_past_the_end": (
        header(0, 1) + array("words", 8, 2, string("a") + struct.pack("<Q", 1)),
        BadCheckpoint,
        "words: the file is truncated",
    ),
    "array_of_arrays": (header(0, 1) + array("deep", 9, 1, bytes(12)), UnsupportedModel, "deep: arrays of arrays"),
    "array_of_unknown": (header(0, 1) + array("odd", 77, 1, bytes(8)), UnsupportedModel, "odd: value type 77"),
    "alignment_not_a_power": (header(0, 1) + key_value("general.alignment", 48), BadCheckpoint, "alignment: '48'"),
    "alignment_zero": (header(0, 1) + key_value("general.alignment", 0), BadCheckpoint, "general.alignment: '0'"),
    "alignment_text": (header(0, 1) + key_value("general.alignment", "x"), BadCheckpoint, "general.alignment: 'x'"),
    "part": (
        header(0, 1) + key_value("split.count", np.uint16(3)),
        UnsupportedModel,
        "split.count: the file is one of '3' .* parts: take the directory",
    ),
    "tensor_truncated": (header(1, 0) + BIAS[:-4] + b"", BadCheckpoint, "tensor bias: the file is truncated"),
    "tensor_without_name": (header(1, 0) + tensor_info("", (8,), 0, 0), BadCheckpoint, "tensor 0 has no name"),
    "tensor_name_not_utf8": (header(1, 0) + tensor_info(b"\xff", (8,), 0, 0), BadCheckpoint, "name of tensor 0: .*xff"),
    "tensor_twice": (header(2, 0) + 2 * BIAS + bytes(99), BadCheckpoint, "tensor bias: tensor 1 has the name of an"),
    "no_dimensions": (header(1, 0) + tensor_info("bias", (), 0, 0), BadCheckpoint, "tensor bias: 0 dimensions"),
    "five_dimensions": (header(1, 0) + tensor_info("bias", (1,) * 5, 0, 0), BadCheckpoint, "tensor bias: 5 dimensions"),
    "absurd_dimensions": (
        header(1, 0) + string("bias") + struct.pack("<I", 1 << 31) + bytes(64),
        BadCheckpoint,
        f"tensor bias: {1 << 31} dimensions",
    ),
    "zero_dimension": (header(1, 0) + tensor_info("bias", (0, 8), 0, 0), BadCheckpoint, r"bias: dimensions \[8, 0\]"),
    "negative_dimension": (
        header(1, 0) + tensor_info("bias", ((1 << 64) - 1,), 0, 0),
        BadCheckpoint,
        rf"bias: dimensions \[{(1 << 64) - 1}\]",
    ),
    "overflowing_dimensions": (
        header(1, 0) + tensor_info("bias", (1 << 40,) * 4, 0, 0) + bytes(64),
        BadCheckpoint,
        f"bias: {4 << 160} bytes at offset",
    ),
    "block_type": (header(1, 0) + tensor_info("bias", (8,), 4, 0) + bytes(64), UnsupportedModel, "bias: block type 4"),
    "ragged_row": (
        header(1, 0) + tensor_info("w", (2, 40), 2, 0) + bytes(64),
        BadCheckpoint,
        "tensor w: rows of 40 do not split into Q4_0 blocks of 32",
    ),
    "unaligned": (header(1, 0) + tensor_info("bias", (8,), 0, 4) + bytes(99), BadCheckpoint, "bias: offset 4 is not"),
    "offset_past_the_end": (
        header(1, 0) + tensor_info("bias", (8,), 0, 1 << 63) + bytes(99),
        BadCheckpoint,
        "bias: 32 bytes at offset .* end past the file's",
    ),
    "data_truncated": (header(1, 0) + BIAS + bytes(30), BadCheckpoint, "bias: 32 bytes .* truncated or damaged"),
    "overlap": (
        header(2, 0) + BIAS + tensor_info("twin", (8,), 0, 0) + bytes(99),
        BadCheckpoint,
        "tensor twin: offset 0 lies inside",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_naming_file_field_and_value(tmp_path: Path, case: str) -> None:
    content, kind, expected = BAD[case]
    path = write(tmp_path, content)
    with pytest.raises(kind, match=expected) as error:
        open_gguf(path)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) < len(str(path)) + 300


def test_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"nowhere\.gguf: cannot be read: No such file"):
        open_gguf(tmp_path / "nowhere.gguf")


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="cannot be read: Is a directory"):
        open_gguf(tmp_path)


def test_scalar_strings_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hearth_export.readers.header.MAX_TEXT_BYTES", 1000)
    path = write_gguf(tmp_path / "a.gguf", {"one": "x" * 600, "two": "x" * 600})
    with pytest.raises(BadCheckpoint, match="two: a string of 600 bytes makes the metadata longer than the 1000"):
        open_gguf(path)


def test_truncation_at_any_byte_of_the_header_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(
        tmp_path / "whole.gguf",
        {"general.architecture": "llama", "words": ["a", "bc"], "numbers": [1, 2, 3], "real": 1.5},
        [Tensor("bias", (8,), "F32", np.ones(8, np.float32)), Tensor("w", (2, 32), "Q4_0")],
    ).read_bytes()
    for length in range(len(whole)):
        with pytest.raises(BadCheckpoint):
            open_gguf(write(tmp_path, whole[:length]))


def test_any_damaged_header_either_parses_or_is_refused_cleanly(tmp_path: Path) -> None:
    whole = bytearray(
        write_gguf(
            tmp_path / "whole.gguf",
            {"general.alignment": 32, "words": ["a", "bc"], "numbers": [1, 2, 3], "real": 1.5, "yes": True},
            [Tensor("bias", (8,), "F32", np.ones(8, np.float32)), Tensor("w", (2, 32), "Q4_0")],
        ).read_bytes()
    )
    rng = np.random.default_rng(6)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole) - 68, rng.integers(1, 4)):
            damaged[at] = rng.choice([0, 1, 2, 8, 9, 127, 128, 255, int(rng.integers(256))])
        try:
            open_gguf(write(tmp_path, bytes(damaged))).close()
        except ExportError:
            refused += 1
    assert refused > 500


def test_hostile_counts_cost_no_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in ("tensor_count", "key_count", "key_length", "string_length", "array_length", "array_of_strings_length"):
        with pytest.raises(ExportError):
            open_gguf(write(tmp_path, BAD[case][0]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB
