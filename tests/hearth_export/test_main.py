"""The command line, on good files and on truncated, damaged and hostile ones."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hearth_export.__main__ import main
from hearth_export.readers.gguf import open_gguf
from hearthd.store.variant import SourceInfo, read_source
from tests.hearth_export.converted import DIGEST, info_of
from tests.hearth_export.gguf_writer import Meta, Tensor, header
from tests.hearth_export.peak import run
from tests.tiny import tokens, write_tiny_gguf

Capture = pytest.CaptureFixture[str]


def convert(source: Path, root: Path, *more: str) -> int:
    return main(["convert", str(source), "--digest", DIGEST, "--out", str(root), *more])


def lines(capture: Capture) -> list[dict[str, Any]]:
    output = capture.readouterr()
    assert output.err == ""
    return [msgspec.json.decode(line) for line in output.out.splitlines()]


def refusal(capture: Capture) -> str:
    """The sentence of the one error line, which is the last."""
    printed = lines(capture)
    assert [line for line in printed if "error" in line] == printed[-1:]
    sentence = printed[-1]["error"]
    assert isinstance(sentence, str) and "\n" not in sentence
    return sentence


def assert_empty(root: Path) -> None:
    assert [path.name for path in root.iterdir()] == [] if root.exists() else True


# -- good files --------------------------------------------------------------------------------------------------------


def test_conversion_tells_its_stages_and_its_result(tiny_gguf: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(tiny_gguf, tmp_path) == 0
    *progress, last = lines(capsys)
    assert last == {"result": {"variant": "cpu-int4"}}
    assert list(dict.fromkeys(line["stage"] for line in progress)) == ["reading", "quantizing", "verifying"]
    assert all(0 <= line["done"] <= line["total"] for line in progress)
    for stage in ("quantizing", "verifying"):
        ends = [line for line in progress if line["stage"] == stage]
        assert (ends[0]["done"], ends[-1]["done"]) == (0, ends[-1]["total"])


def test_variant_records_where_it_comes_from(tiny_gguf: Path, tmp_path: Path) -> None:
    assert convert(tiny_gguf, tmp_path, "--goal", "fidelity") == 0
    info = info_of(tmp_path / "cpu-int4")
    assert (info.source, info.architecture, info.holders) == (DIGEST, "llama", {"Q4_1": "off", "Q8_0": "exact"})
    assert (info.bos_id, info.eos_ids) == (1, [0, 2])
    source = read_source(tmp_path / "source.json")
    assert source is not None and source.architecture == "llama"


def test_conversion_twice_gives_the_same_bytes(tiny_gguf: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert convert(tiny_gguf, tmp_path / name) == 0
    for file in (tmp_path / "first" / "cpu-int4").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / "cpu-int4" / file.name).read_bytes()


def test_inspection_prints_a_description(tiny_gguf: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tiny_gguf)]) == 0
    info = msgspec.json.decode(capsys.readouterr().out, type=SourceInfo)
    assert (info.architecture, info.parameter_count > 0) == ("llama", True)


# -- bad files ---------------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Path], Path]:
    """Writes the tiny checkpoint with a tensor under another name."""

    def write(path: Path) -> Path:
        write_tiny_gguf(path)
        path.write_bytes(path.read_bytes().replace(name.encode(), name.replace("blk", "blq").encode()))
        return path

    return write


def tiny(extra: dict[str, Meta] | None = None, *tensors: Tensor, **arguments: Any) -> Callable[[Path], Path]:
    return lambda path: write_tiny_gguf(path, num_layers=1, extra=extra, extra_tensors=tensors, **arguments)


def with_bytes(name: str, at: int, value: bytes) -> Callable[[Path], Path]:
    """Writes the tiny checkpoint with some bytes of a tensor changed."""

    def write(path: Path) -> Path:
        write_tiny_gguf(path)
        with open_gguf(path) as gguf, path.open("r+b") as file:
            file.seek(gguf.tensor(name).offset + at)
            file.write(value)
        return path

    return write


def raw(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def cut(num_bytes: int) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        content = write_tiny_gguf(path).read_bytes()
        path.write_bytes(content[:-num_bytes])
        return path

    return write


NAN = np.array([np.nan], np.float16).tobytes()
BAD: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "magic": (raw(b"PK\3\4" + bytes(64)), ("magic", r"b'PK\x03\x04'")),
    "empty": (raw(b""), ("empty",)),
    "tensor_count": (raw(header(1 << 62, 0)), ("tensor_count", str(1 << 62))),
    "key_count": (raw(header(0, 1 << 62)), ("metadata_kv_count", str(1 << 62))),
    "version": (raw(header(0, 0, version=9)), ("version", "9")),
    "no_tensors": (raw(header(0, 0)), ("general.architecture", "missing")),
    "truncated": (cut(100), ("tensor", "truncated", "past the file's")),
    "architecture": (tiny({"general.architecture": "rwkv7"}), ("general.architecture", "rwkv7")),
    "pre_tokenizer": (tiny({"tokenizer.ggml.pre": "unheard-of"}), ("tokenizer.ggml.pre", "unheard-of")),
    "tokenizer": (tiny({"tokenizer.ggml.model": "rwkv"}), ("tokenizer.ggml.model", "rwkv")),
    "no_vocabulary": (tiny({"tokenizer.ggml.tokens": 3}), ("tokenizer.ggml.tokens", "3")),
    "vocabulary_beyond_the_embedding": (
        tiny(
            {
                "tokenizer.ggml.tokens": [*tokens(), "one-more"],
                "tokenizer.ggml.token_type": np.array([3] * 3 + [1] * 263, np.int32),
            }
        ),
        ("tokenizer.ggml.tokens", "266", "265"),
    ),
    "layers": (tiny({"llama.block_count": 1 << 30}), ("llama.block_count", str(1 << 30))),
    "width": (tiny({"llama.embedding_length": 1 << 31}), ("llama.embedding_length", str(1 << 31))),
    "width_of_the_tensors": (
        tiny({"llama.embedding_length": 128, "llama.rope.dimension_count": 32}),
        ("token_embd.weight", "(265, 64)", "(265, 128)"),
    ),
    "heads": (tiny({"llama.attention.head_count_kv": 3}), ("llama.attention.head_count_kv", "3")),
    "text_for_a_number": (tiny({"llama.block_count": "two"}), ("llama.block_count", "'two'")),
    "missing_tensor": (without("blk.1.ffn_up.weight"), ("tensor blk.1.ffn_up.weight is missing",)),
    "other_shape": (tiny({"llama.feed_forward_length": 96}), ("blk.0.ffn_gate.weight", "(128, 64)", "(96, 64)")),
    "experts": (tiny({"llama.expert_count": 8}), ("llama.expert_used_count", "missing")),
    "extra_tensor": (
        tiny({}, Tensor("blk.0.attn_sinks.weight", (4,), "F32", np.ones(4, np.float32))),
        ("blk.0.attn_sinks.weight", "no place"),
    ),
    "nan_scale": (with_bytes("blk.1.ffn_down.weight", 0, NAN), ("blk.1.ffn_down.weight", "row 0 block 0", "nan")),
    "nan_scale_late": (
        with_bytes("blk.1.ffn_down.weight", 40 * 80, NAN),
        ("blk.1.ffn_down.weight", "row 40 block 0", "nan"),
    ),
    "nan_in_the_embedding": (with_bytes("token_embd.weight", 0, NAN), ("token_embd.weight", "nan")),
    "nan_in_a_norm": (
        with_bytes("blk.0.attn_norm.weight", 8, np.array([np.nan], np.float32).tobytes()),
        ("blk.0.attn_norm.weight", "not finite"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_in_one_line_that_names_file_field_and_value(
    tmp_path: Path, capsys: Capture, case: str
) -> None:
    write, parts = BAD[case]
    source = write(tmp_path / "model.gguf")
    assert convert(source, tmp_path / "variants") == 1
    sentence = refusal(capsys)
    assert sentence.startswith(str(source))
    for part in parts:
        assert part in sentence
    assert_empty(tmp_path / "variants")


@pytest.mark.parametrize("case", ["magic", "empty", "tensor_count", "no_tensors", "truncated"])
def test_bad_file_is_refused_by_inspection_too(tmp_path: Path, capsys: Capture, case: str) -> None:
    write, parts = BAD[case]
    source = write(tmp_path / "model.gguf")
    assert main(["inspect", str(source)]) == 1
    sentence = refusal(capsys)
    for part in (str(source), *parts):
        assert part in sentence


def test_file_that_is_not_there_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert convert(tmp_path / "absent.gguf", tmp_path / "variants") == 1
    assert refusal(capsys) == f"{tmp_path}/absent.gguf: cannot be read: No such file or directory"


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + 63 * "a", "sha256:" + 64 * "A", "md5:" + 64 * "a"])
def test_digest_of_another_form_is_refused(tiny_gguf: Path, tmp_path: Path, capsys: Capture, digest: str) -> None:
    assert main(["convert", str(tiny_gguf), "--digest", digest, "--out", str(tmp_path)]) == 1
    assert repr(digest) in refusal(capsys)
    assert_empty(tmp_path)


def test_path_that_is_not_utf8_is_shown_escaped(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf")]) == 1
    assert "\\udcff.gguf" in refusal(capsys)


def test_earlier_variant_survives_a_conversion_that_fails(tiny_gguf: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(tiny_gguf, tmp_path) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "cpu-int4").iterdir()}
    bad = with_bytes("blk.1.ffn_down.weight", 40 * 80, NAN)(tmp_path / "bad.gguf")
    capsys.readouterr()
    assert convert(bad, tmp_path) == 1
    refusal(capsys)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cpu-int4").iterdir()} == before


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_to_the_header_ends_in_a_variant_or_in_one_error(
    tiny_gguf: Path, tmp_path: Path, capsys: Capture, seed: int
) -> None:
    generator, content = random.Random(seed), bytearray(tiny_gguf.read_bytes())
    with open_gguf(tiny_gguf) as gguf:
        header_bytes = min(info.offset for info in gguf.tensors.values())
    interesting = generator.choice([range(24), range(24, 1200), range(header_bytes - 2000, header_bytes)])
    for _ in range(generator.randint(1, 3)):
        content[generator.choice(interesting)] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)])
    source = tmp_path / "model.gguf"
    source.write_bytes(content)
    if convert(source, tmp_path / "variants") == 0:
        assert "result" in lines(capsys)[-1]
    else:
        assert refusal(capsys).startswith(str(source))
        assert not [path for path in (tmp_path / "variants").glob("*") if path.is_dir()]


@pytest.mark.parametrize("seed", range(12))
def test_any_damage_to_the_weights_ends_in_a_variant_or_in_one_error(
    tiny_gguf: Path, tmp_path: Path, capsys: Capture, seed: int
) -> None:
    generator, content = np.random.default_rng(seed), np.fromfile(tiny_gguf, np.uint8)
    with open_gguf(tiny_gguf) as gguf:
        start = min(info.offset for info in gguf.tensors.values())
    content[generator.integers(start, content.size, 20)] = generator.integers(0, 256, 20)
    source = tmp_path / "model.gguf"
    content.tofile(source)
    if convert(source, tmp_path / "variants") == 0:
        assert "result" in lines(capsys)[-1]
    else:
        assert refusal(capsys).startswith(str(source))


def test_module_refuses_a_hostile_file_in_little_memory_without_a_traceback(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(header(1 << 16, 1 << 15) + random.Random(1).randbytes(1 << 20) + bytes(8 << 20))
    done = run("convert", str(source), "--digest", DIGEST, "--out", str(tmp_path))
    assert (done.returncode, done.errors) == (1, "")
    assert str(source) in msgspec.json.decode(done.lines[-1])["error"]
    assert done.peak_bytes < 200 << 20
