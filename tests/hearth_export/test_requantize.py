"""`quantize` of the command line: GGUF files of floats to quantized ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
from gguf import quants
from numpy.typing import NDArray

from hearth_export.__main__ import main
from hearth_export.mix import DEFAULTS
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.readers.values import MetaArray, TensorInfo
from tests.hearth_export.converted import converted, prefill_logits
from tests.hearth_export.float_llama import FloatLlama, divergence
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf
from tests.hearth_export.peak import run
from tests.hearth_export.random_blocks import dequantized
from tests.tiny import write_tiny_gguf

Capture = pytest.CaptureFixture[str]
Floats = NDArray[np.float32]
MAX_PEAK_BYTES = 100 << 20
# relative errors of normal weights: those of the formats, and somewhat more
ERRORS = {
    "F32": 0,
    "F16": 0.001,
    "BF16": 0.003,
    "Q8_0": 0.01,
    "Q6_K": 0.02,
    "Q5": 0.05,
    "Q4": 0.1,
    "Q3": 0.2,
    "Q2": 0.4,
}


def quantize(source: Path, to: str, out: Path) -> int:
    return main(["quantize", str(source), "--to", to, "--out", str(out)])


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


def tiny(path: Path, matrix_type: str = "F16", **more: Any) -> Path:
    return write_tiny_gguf(path, matrix_type=matrix_type, embedding_type=matrix_type, hidden_size=256, **more)


def one_tensor(path: Path, tensor: Tensor, **metadata: Meta) -> Path:
    return write_gguf(path, {"general.architecture": "llama", **metadata}, [tensor])


def weights(path: Path) -> dict[str, Floats]:
    """The gguf package's reading of all tensors."""
    return {
        tensor.name: np.asarray(quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        for tensor in gguf.GGUFReader(str(path)).tensors
    }


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_stages_and_result_are_told(tmp_path: Path, capsys: Capture) -> None:
    source, out = tiny(tmp_path / "f16.gguf"), tmp_path / "out.gguf"
    assert quantize(source, "q4_k_m", out) == 0
    *progress, last = lines(capsys)
    assert last == {"result": {"file": str(out), "num_bytes": out.stat().st_size}}
    assert list(dict.fromkeys(line["stage"] for line in progress)) == ["reading", "quantizing"]
    with open_gguf(source) as gguf_file:
        num_bytes = sum(info.nbytes for info in gguf_file.tensors.values())
    assert (progress[1]["done"], progress[-1]["done"], progress[-1]["total"]) == (0, num_bytes, num_bytes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f16.gguf", "out.gguf"]


@pytest.mark.parametrize("target", DEFAULTS)
@pytest.mark.parametrize("matrix_type", ["F16", "BF16", "F32"])
def test_weights_stay_what_they_were_as_far_as_the_type_goes(tmp_path: Path, target: str, matrix_type: str) -> None:
    source = tiny(tmp_path / "source.gguf", matrix_type, num_layers=1)
    assert quantize(source, target, tmp_path / "out.gguf") == 0
    before, after = weights(source), weights(tmp_path / "out.gguf")
    assert list(before) == list(after)
    limit = next(value for key, value in ERRORS.items() if target.startswith(key))
    for name, w in before.items():
        if w.size > 256:
            assert np.sqrt(np.square(after[name] - w).mean() / np.square(w).mean()) <= limit, name
        else:
            np.testing.assert_array_equal(after[name], w)


def test_metadata_is_kept_to_the_byte_but_for_what_says_the_type(tmp_path: Path) -> None:
    extra: dict[str, Meta] = {
        "general.file_type": np.uint64(1),
        "a.nan": np.float64(np.nan),
        "a.small": np.int8(-3),
        "a.flags": np.array([True, False]),
        "a.none": np.array([], np.uint16),
        "a.texts": ["\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), ""],
    }
    source, out = tiny(tmp_path / "source.gguf", extra=extra), tmp_path / "out.gguf"
    assert quantize(source, "Q5_K_S", out) == 0
    with open_gguf(source) as old, open_gguf(out) as new:
        assert [*old.metadata, "general.quantization_version"] == list(new.metadata)
        for key in old.metadata.keys() - {"general.file_type"}:
            assert old.raw_value(key) == new.raw_value(key), key
        assert new.raw_value("general.file_type") == b"\4\0\0\0" + b"\x10\0\0\0"
        assert new.raw_value("general.quantization_version") == b"\4\0\0\0" + b"\2\0\0\0"
        assert new.version == 3


def test_text_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    source, out = tiny(tmp_path / "source.gguf", extra={"a.text": "MARK"}), tmp_path / "out.gguf"
    source.write_bytes(source.read_bytes().replace(b"MARK", b"\xff\0\xfe\n"))
    assert quantize(source, "Q8_0", out) == 0
    with open_gguf(out) as new:
        assert new.raw_value("a.text").endswith(b"\xff\0\xfe\n")


@pytest.mark.parametrize(("target", "number"), [("F32", 0), ("F16", 1), ("Q8_0", 7), ("Q4_K_M", 15), ("BF16", 32)])
def test_other_readers_see_the_new_type(tmp_path: Path, target: str, number: int) -> None:
    assert quantize(tiny(tmp_path / "source.gguf", num_layers=1), target, tmp_path / "out.gguf") == 0
    reader = gguf.GGUFReader(str(tmp_path / "out.gguf"))
    field = reader.get_field("general.file_type")
    assert field is not None and field.contents() == number
    assert {tensor.tensor_type.name for tensor in reader.tensors} >= {DEFAULTS[target]}


def test_norms_and_vectors_stay_floats(tmp_path: Path) -> None:
    assert quantize(tiny(tmp_path / "source.gguf", biases=True), "Q4_0", tmp_path / "out.gguf") == 0
    with open_gguf(tmp_path / "out.gguf") as new:
        found = {info.type for info in new.tensors.values() if len(info.shape) == 1}
        assert (found, new.tensors["blk.0.attn_q.weight"].type) == ({"F32"}, "Q4_0")


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_is_respected(tmp_path: Path, alignment: int) -> None:
    tensors = [Tensor(f"blk.{i}.ffn_up.weight", (3, 32), "F16") for i in range(3)]
    metadata: dict[str, Meta] = {"general.architecture": "llama", "general.alignment": alignment}
    source = write_gguf(tmp_path / "source.gguf", metadata, tensors, alignment=alignment)
    assert quantize(source, "Q8_0", tmp_path / "out.gguf") == 0
    with open_gguf(tmp_path / "out.gguf") as new:
        offsets = [info.offset for info in new.tensors.values()]
    assert [offset % alignment for offset in offsets] == [0, 0, 0]
    assert (tmp_path / "out.gguf").stat().st_size % alignment == 0


def test_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = tiny(tmp_path / "source.gguf")
    for name in ("first", "second"):
        assert quantize(source, "Q4_K_M", tmp_path / name) == 0
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_version_2_file_with_three_dimensions_and_integers_is_quantized(tmp_path: Path) -> None:
    tensors = [
        Tensor("blk.0.ffn_up_exps.weight", (3, 5, 64), "F32", np.random.default_rng(1).random((3, 5, 64), np.float32)),
        Tensor("blk.0.table.weight", (4, 8), "I32", np.arange(32, dtype=np.int32).tobytes()),
    ]
    source = write_gguf(tmp_path / "source.gguf", {"general.architecture": "llama"}, tensors, version=2)
    assert quantize(source, "q8_0", tmp_path / "out.gguf") == 0
    with open_gguf(tmp_path / "out.gguf") as new:
        info = new.tensor("blk.0.ffn_up_exps.weight")
        assert (info.shape, info.type) == ((3, 5, 64), "Q8_0")
        assert new.rows("blk.0.table.weight", 0, 4).tobytes() == tensors[1].raw()


def test_file_of_the_same_name_is_replaced_whole(tmp_path: Path) -> None:
    source = tiny(tmp_path / "source.gguf")
    assert quantize(source, "Q8_0", source) == 0
    with open_gguf(source) as new:
        assert new.tensors["blk.0.attn_q.weight"].type == "Q8_0"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix_type", ["Q4_0", "Q8_0", "Q4_K", "IQ4_XS", "TQ1_0"])
def test_quantized_source_is_refused(tmp_path: Path, capsys: Capture, matrix_type: str) -> None:
    source = one_tensor(tmp_path / "source.gguf", Tensor("blk.0.ffn_up.weight", (2, 256), matrix_type))
    assert quantize(source, "Q4_K_M", tmp_path / "out.gguf") == 1
    assert refusal(capsys) == "quantization is only supported for F16, BF16 and F32 models"
    assert list(tmp_path.iterdir()) == [source]


def test_unknown_type_is_refused_before_the_source_is_read(tmp_path: Path, capsys: Capture) -> None:
    assert quantize(tmp_path / "absent.gguf", "Q9_X", tmp_path / "out.gguf") == 1
    sentence = refusal(capsys)
    assert sentence.startswith("unsupported quantization type Q9_X - supported types are F32, F16, ")
    assert sentence.endswith(", Q6_K")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 700])
@pytest.mark.parametrize("kind", ["F32", "F16"])
@pytest.mark.parametrize("target", ["Q4_0", "Q4_K_M", "F16"])
def test_weight_that_is_not_finite_is_refused_naming_file_and_tensor(
    tmp_path: Path, capsys: Capture, value: float, row: int, kind: str, target: str
) -> None:
    w = np.zeros((701, 256), np.float32)
    w[row, 5] = value
    source = one_tensor(tmp_path / "source.gguf", Tensor("blk.0.ffn_up.weight", w.shape, kind, w))
    assert quantize(source, target, tmp_path / "out.gguf") == 1
    sentence = refusal(capsys)
    assert sentence.startswith(f"{source}: tensor blk.0.ffn_up.weight, rows {row // 256 * 256}..")
    assert f"the weight {value} is not finite" in sentence
    assert list(tmp_path.iterdir()) == [source]


def test_norm_that_is_not_finite_is_refused(tmp_path: Path, capsys: Capture) -> None:
    norm = Tensor("output_norm.weight", (32,), "F32", np.full(32, np.nan, np.float32))
    assert quantize(one_tensor(tmp_path / "source.gguf", norm), "Q8_0", tmp_path / "out.gguf") == 1
    assert "output_norm.weight" in refusal(capsys)


def test_weight_beyond_the_type_is_refused_with_what_to_do(tmp_path: Path, capsys: Capture) -> None:
    w = np.full((2, 64), 1e9, np.float32)
    source = one_tensor(tmp_path / "source.gguf", Tensor("blk.0.ffn_up.weight", w.shape, "F32", w))
    assert quantize(source, "F16", tmp_path / "out.gguf") == 1
    assert "the weight 1e+09 is too large for 16 bit floats: quantize to F32 or BF16 instead" in refusal(capsys)
    assert quantize(source, "BF16", tmp_path / "out.gguf") == 0


def test_file_that_is_no_gguf_is_refused_by_name(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "source.gguf").write_bytes(b"PK\3\4" + bytes(64))
    assert quantize(tmp_path / "source.gguf", "Q8_0", tmp_path / "out.gguf") == 1
    assert refusal(capsys).startswith(f"{tmp_path}/source.gguf: magic")


def test_truncated_file_is_refused(tmp_path: Path, capsys: Capture) -> None:
    source = tiny(tmp_path / "source.gguf")
    os.truncate(source, source.stat().st_size - 100)
    assert quantize(source, "Q8_0", tmp_path / "out.gguf") == 1
    assert "truncated" in refusal(capsys)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("out", ["absent/out.gguf", "directory"])
def test_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: Capture, out: str) -> None:
    (tmp_path / "directory").mkdir()
    assert quantize(tiny(tmp_path / "source.gguf"), "Q8_0", tmp_path / out) == 1
    assert str(tmp_path) in refusal(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "source.gguf"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB."""
    mount, at = shutil.which("mount"), tmp_path / "disk"
    at.mkdir()
    if mount is None or os.geteuid() or subprocess.run([mount, "-t", "tmpfs", "-o", "size=80m", "none", at]).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def test_disk_without_room_is_told_beforehand(small_disk: Path, tmp_path: Path, capsys: Capture) -> None:
    source = one_tensor(tmp_path / "source.gguf", Tensor("token_embd.weight", (1 << 15, 1024), "F16"))  # holes
    assert quantize(source, "Q8_0", small_disk / "out.gguf") == 1
    sentence = refusal(capsys)
    assert f"not enough disk space under {small_disk}" in sentence and "needs 34 MiB" in sentence
    assert list(small_disk.iterdir()) == []


# -- a real model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2_f16(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with its matrices as float16: 258 MiB."""
    with open_gguf(smollm2_gguf) as source:
        metadata = {key: plain(value) for key, value in source.metadata.items()}
        tensors = [as_float16(source, info) for info in source.tensors.values()]
    return write_gguf(tmp_path_factory.mktemp("smollm2") / "f16.gguf", {**metadata, "general.file_type": 1}, tensors)


def as_float16(source: GGUF, info: TensorInfo) -> Tensor:
    raw = source.rows(info.name, 0, info.num_rows)
    if info.type == "F32":
        return Tensor(info.name, info.shape, "F32", raw.tobytes())
    return Tensor(info.name, info.shape, "F16", dequantized(info.type, raw).astype(np.float16).tobytes())


def plain(value: Any) -> Meta:
    if not isinstance(value, MetaArray):
        return value  # type: ignore[no-any-return]
    return [str(item) for item in value] if value.element == "string" else value.numpy()


# nats a token over the start of the prose, int8 activations included
@pytest.mark.parametrize(("target", "limit"), [("Q8_0", 0.01), ("Q4_K_M", 0.08)])
def test_real_model_predicts_on_after_quantizing_and_converting(
    smollm2_f16: Path, reference: tuple[list[int], Floats], tmp_path: Path, target: str, limit: float
) -> None:
    tokens, logits = reference
    assert quantize(smollm2_f16, target, tmp_path / "out.gguf") == 0
    found = divergence(logits, prefill_logits(converted(tmp_path / "out.gguf", tmp_path / "variants"), tokens))
    print(f"{target}: KL {found:.4f}")
    assert found <= limit


@pytest.fixture(scope="module")
def reference(smollm2_f16: Path, smollm2_variant: Path) -> tuple[list[int], Floats]:
    """Tokens of prose, and the float model's logits."""
    import tokenizers

    prose = (Path(__file__).parents[1] / "data" / "prose.txt").read_text()
    tokenizer = tokenizers.Tokenizer.from_file(str(smollm2_variant / "tokenizer.json"))
    tokens: list[int] = tokenizer.encode(prose, add_special_tokens=False).ids[:128]
    return tokens, FloatLlama(smollm2_f16).logits(tokens)


@pytest.mark.parametrize("target", ["Q8_0", "Q4_K_M"])
def test_memory_stays_small(smollm2_f16: Path, tmp_path: Path, target: str) -> None:
    done = run("quantize", str(smollm2_f16), "--to", target, "--out", str(tmp_path / "out.gguf"))
    assert (done.returncode, done.errors) == (0, "")
    assert done.peak_bytes <= MAX_PEAK_BYTES


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip(f"needs 6 GiB of free disk under {tmp_path}")
    tensors = [Tensor(f"blk.{i}.ffn_up.weight", (1 << 14, 1 << 13), "F16") for i in range(16)]  # holes
    source = write_gguf(tmp_path / "source.gguf", {"general.architecture": "llama"}, tensors)
    assert source.stat().st_size > 4 << 30
    done = run("quantize", str(source), "--to", "Q4_0", "--out", str(tmp_path / "out.gguf"))
    assert (done.returncode, done.errors) == (0, "")
    assert done.peak_bytes <= MAX_PEAK_BYTES
    with open_gguf(tmp_path / "out.gguf") as new:
        assert {info.type for info in new.tensors.values()} == {"Q4_0"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_end_that_is_asked_for_leaves_nothing(smollm2_f16: Path, tmp_path: Path, number: signal.Signals) -> None:
    child = start(smollm2_f16, tmp_path / "out.gguf")
    assert child.stdout is not None
    for line in child.stdout:
        if msgspec.json.decode(line).get("done", 0) > 0:
            break
    assert len(list(tmp_path.iterdir())) == 1
    child.send_signal(number)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert f"stopped by {number.name}" in output.splitlines()[-1]
    assert (errors, list(tmp_path.iterdir())) == ("", [])


def test_reader_that_goes_away_ends_it_and_nothing_stays(smollm2_f16: Path, tmp_path: Path) -> None:
    child = start(smollm2_f16, tmp_path / "out.gguf")
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    with child.stderr as stream:
        errors = stream.read()
    assert (child.wait(60), errors, list(tmp_path.iterdir())) == (1, "", [])


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hearth_export", "quantize", str(source), "--to", "Q4_K_M", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
