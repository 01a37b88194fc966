from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from hearth_export.errors import BadCheckpoint
from hearth_export.readers.gguf import open_gguf
from hearth_export.source import describe
from hearthd.store.variant import SourceInfo
from tests.hearth_export.gguf_writer import Meta, string, typed, write_gguf
from tests.tiny import CHAT_TEMPLATE, write_tiny_gguf


def described(path: Path, *, verbose: bool = False) -> SourceInfo:
    with open_gguf(path) as gguf:
        return describe(gguf, verbose)


def with_metadata(path: Path, extra: dict[str, Meta]) -> SourceInfo:
    return described(write_gguf(path / "file.gguf", {"general.architecture": "llama", **extra}))


def test_real_checkpoint_is_described(smollm2_gguf: Path) -> None:
    info = described(smollm2_gguf)
    assert (info.architecture, info.file_type, info.parameter_count) == ("llama", "Q4_1", 134_515_008)
    assert (info.context_length, info.embedding_length) == (8192, 576)
    assert (info.bos_token, info.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert info.chat_template is not None and "im_start" in info.chat_template
    assert info.metadata["tokenizer.ggml.tokens"] is None
    assert info.metadata["llama.block_count"] == 30
    assert info.tensors[0].shape[0] == 576  # the file's order, columns first


def test_long_arrays_come_when_asked_for(smollm2_gguf: Path) -> None:
    tokens = described(smollm2_gguf, verbose=True).metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 49152


def test_tiny_checkpoint_keeps_its_template_and_short_arrays(tiny_gguf: Path) -> None:
    info = described(tiny_gguf)
    assert info.chat_template == CHAT_TEMPLATE
    assert len(info.metadata["tokenizer.ggml.merges"]) == 6
    assert info.file_type == "Q4_1"  # the commonest block type: the file names none


def test_description_survives_its_own_encoding(tiny_gguf: Path) -> None:
    info = described(tiny_gguf, verbose=True)
    assert msgspec.json.decode(msgspec.json.encode(info), type=SourceInfo) == info


def test_values_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    info = with_metadata(tmp_path, {"a.nan": float("nan"), "a.many": np.array([1, np.inf], np.float32)})
    assert info.metadata["a.nan"] is None
    assert info.metadata["a.many"] == [1, None]


def test_texts_that_are_not_utf8_are_shown_with_replacements(tmp_path: Path) -> None:
    raw = typed("general.architecture", 8, string("llama")) + typed("a.text", 8, string(b"\xff!"))
    path = tmp_path / "file.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (2).to_bytes(8, "little") + raw)
    assert described(path).metadata["a.text"] == "�!"
    assert msgspec.json.encode(described(path))


@pytest.mark.parametrize("token_id", [0, 265, 1 << 31])
def test_token_id_outside_the_vocabulary_has_no_text(tmp_path: Path, token_id: int) -> None:
    info = described(write_tiny_gguf(tmp_path / "tiny.gguf", extra={"tokenizer.ggml.eos_token_id": token_id}))
    assert info.eos_token == ("<|endoftext|>" if token_id == 0 else "")


def test_declared_file_type_wins(tmp_path: Path) -> None:
    info = described(write_tiny_gguf(tmp_path / "tiny.gguf", extra={"general.file_type": 15}))
    assert info.file_type == "Q4_K_M"


def test_file_without_tensors_is_of_unknown_type(tmp_path: Path) -> None:
    assert with_metadata(tmp_path, {}).file_type == "unknown"


def test_architecture_that_is_missing_is_refused_by_key(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "file.gguf", {"general.name": "x"})
    with pytest.raises(BadCheckpoint, match=r"file\.gguf: general\.architecture is missing"):
        described(path)
