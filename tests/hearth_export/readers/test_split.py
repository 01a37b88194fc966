from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hearth_export.__main__ import main
from hearth_export.checkpoint import open_checkpoint
from hearth_export.errors import BadCheckpoint, ExportError
from hearth_export.readers.gguf import open_gguf
from tests.hearth_export.converted import converted
from tests.hearth_export.gguf_parts import write_parts
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.tiny import write_tiny_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("whole") / "tiny.gguf", matrix_type="F16", embedding_type="F16")


def test_parts_are_what_the_whole_is(whole: Path, tmp_path: Path) -> None:
    with open_gguf(whole) as one, open_checkpoint(write_parts(whole, tmp_path / "parts")) as parts:
        assert dict(parts.tensors).keys() == one.tensors.keys()
        for name, info in one.tensors.items():
            assert parts.rows(name, 0, info.num_rows).tobytes() == one.rows(name, 0, info.num_rows).tobytes()
            parts.release(name)
        assert parts.metadata.keys() == one.metadata.keys()
        assert parts.require("general.architecture", str) == "llama"
        assert parts.read_file("config.json") is None
        with pytest.raises(BadCheckpoint, match="nothing is missing"):
            parts.tensor("nothing")


def test_variant_of_parts_has_the_bytes_of_that_of_the_whole(whole: Path, tmp_path: Path) -> None:
    ours = converted(write_parts(whole, tmp_path / "parts"), tmp_path / "ours")
    theirs = converted(whole, tmp_path / "theirs")
    for file in ("model.onnx", "model.onnx.data", "tokenizer.json"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()


def test_parts_are_quantized_into_one_file(whole: Path, tmp_path: Path) -> None:
    parts = write_parts(whole, tmp_path / "parts")
    for source, out in ((parts, "ours"), (whole, "theirs")):
        assert main(["quantize", str(source), "--to", "Q8_0", "--out", str(tmp_path / out)]) == 0
    with open_gguf(tmp_path / "ours") as ours, open_gguf(tmp_path / "theirs") as theirs:
        assert ours.metadata.keys() == theirs.metadata.keys()
        for name, info in theirs.tensors.items():
            assert ours.rows(name, 0, info.num_rows).tobytes() == theirs.rows(name, 0, info.num_rows).tobytes()


def doubled(directory: Path) -> None:
    shutil.copy(directory / "tiny-00001-of-00003.gguf", directory / "tiny-00003-of-00003.gguf")


def stranger(directory: Path) -> None:
    write_tiny_gguf(directory / "other.gguf")


def same_tensors(directory: Path) -> None:
    split: dict[str, Meta] = {"split.no": np.uint16(2), "split.count": np.uint16(3)}
    tensors = [Tensor("token_embd.weight", (1, 32), "F32")]
    write_gguf(directory / "tiny-00003-of-00003.gguf", split, tensors)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda directory: (directory / "tiny-00002-of-00003.gguf").unlink(), "part 1 of 3, but 2 GGUF files"),
        (doubled, "both are part 1"),
        (stranger, "no part of another, but 4 GGUF files"),
        (same_tensors, "token_embd.weight' is in another part too"),
        (lambda directory: (directory / "tiny-00002-of-00003.gguf").write_bytes(b"GGUF"), "truncated"),
    ],
)
def test_unfit_parts_are_refused_naming_the_file(
    whole: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    directory = write_parts(whole, tmp_path / "parts")
    spoil(directory)
    with pytest.raises(ExportError, match=sentence) as caught:
        open_checkpoint(directory)
    assert ".gguf" in str(caught.value)


def test_count_of_tensors_that_is_wrong_is_refused(whole: Path, tmp_path: Path) -> None:
    directory = write_parts(whole, tmp_path / "parts", {"split.tensors.count": np.int32(99)})
    with pytest.raises(BadCheckpoint, match=r"split\.tensors\.count is 99, but the parts hold"):
        open_checkpoint(directory)


def test_directory_with_one_file_is_that_file(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole, tmp_path / "x.gguf")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path / "x.gguf"
