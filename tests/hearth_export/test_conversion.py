"""`convert` as a person asks for it: variants by name, models of the store, dry runs, a terminal."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearth_export.__main__ import main
from hearth_export.variants import VARIANTS
from hearthd.registry.create import create
from hearthd.registry.spec import CreateSpec
from hearthd.store import names
from hearthd.store.needs import needs
from hearthd.store.store import ModelStore, open_store
from tests.hearth_export.converted import info_of
from tests.hearth_export.peak import run
from tests.hearth_export.safetensors_writer import Stored, write_repository
from tests.tiny import write_tiny_gguf
from tests.tiny_directory import write_tiny_directory

Capture = pytest.CaptureFixture[str]


def last_line(capture: Capture) -> dict[str, Any]:
    lines = capture.readouterr().out.splitlines()
    decoded: dict[str, Any] = msgspec.json.decode(lines[-1])
    return decoded


def stored(store: ModelStore, name: str, path: Path) -> None:
    async def collect() -> None:
        async for _ in create(store, CreateSpec(name=names.parse(name), path=path)):
            pass

    asyncio.run(collect())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_directory(tmp_path_factory.mktemp("directory") / "tiny")


@pytest.fixture(scope="module")
def models(directory: Path, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of one file and one of several."""
    store = open_store(tmp_path_factory.mktemp("store") / "models")
    stored(store, "one", tiny_gguf)
    stored(store, "several", directory)
    return store.root


# variants


@pytest.mark.parametrize("variant", [row.name for row in VARIANTS if not row.is_built])
def test_variant_that_cannot_be_made_yet_is_refused_by_name(
    tiny_gguf: Path, tmp_path: Path, capsys: Capture, variant: str
) -> None:
    assert main(["convert", str(tiny_gguf), "--variant", variant, "--out", str(tmp_path / "out")]) == 1
    said = last_line(capsys)["error"]
    assert variant in said and "cpu-int4, cpu-int8, cpu-f32" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--variant", "cpu-int5"], "there is no variant 'cpu-int5'"),
        (["--variant", "cpu-int8"], "gives the variant cpu-int4, not cpu-int8"),
        (["--variant", "cpu-f32", "--goal", "bytes"], "--goal bytes does not make cpu-f32"),
        (["--quantize", "Q4_0"], "quantization is only supported for F16, BF16 and F32 models"),
        (["--quantize", "Q9"], "unsupported quantization type Q9"),
    ],
)
def test_variant_that_this_checkpoint_does_not_give_is_refused_and_nothing_is_left(
    tiny_gguf: Path, tmp_path: Path, capsys: Capture, arguments: list[str], sentence: str
) -> None:
    assert main(["convert", str(tiny_gguf), "--out", str(tmp_path / "out"), *arguments]) == 1
    assert sentence in last_line(capsys)["error"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        ([], "cpu-int8"),
        (["--variant", "cpu-int8"], "cpu-int8"),
        (["--variant", "cpu-f32"], "cpu-f32"),
        (["--variant", "cpu-int4"], "cpu-int4"),
        (["--quantize", "q4_0"], "cpu-int4"),
    ],
)
def test_variant_of_floats_is_the_one_that_is_asked_for(
    directory: Path, tmp_path: Path, capsys: Capture, arguments: list[str], made: str
) -> None:
    assert main(["convert", str(directory), "--out", str(tmp_path / "out"), *arguments]) == 0
    assert last_line(capsys) == {"result": {"variant": made}}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [made, "source.json"]
    assert info_of(tmp_path / "out" / made).name == made


def test_table_lists_every_variant(capsys: Capture) -> None:
    assert main(["variants"]) == 0
    out = capsys.readouterr().out
    assert all(row.name in out for row in VARIANTS)
    assert out.count("not yet") == 2


# sources


def test_file_s_digest_is_computed_where_it_is_not_given(tiny_gguf: Path, tmp_path: Path) -> None:
    assert main(["convert", str(tiny_gguf), "--out", str(tmp_path)]) == 0
    assert info_of(tmp_path / "cpu-int4").source == f"sha256:{hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()}"


def test_directory_s_digest_is_the_one_that_the_store_gives_it(directory: Path, models: Path, tmp_path: Path) -> None:
    assert main(["convert", str(directory), "--out", str(tmp_path)]) == 0
    source = open_store(models).resolve(names.parse("several")).source
    assert info_of(tmp_path / "cpu-int8").source == source


@pytest.mark.parametrize("name", ["one", "several"])
def test_model_of_the_store_is_converted_into_it(models: Path, capsys: Capture, name: str) -> None:
    assert main(["convert", name, "--models", str(models), "--variant", "cpu-f32"]) == 0
    store = open_store(models)
    source = str(store.resolve(names.parse(name)).source)
    assert "cpu-f32" in [info.name for _, info in store.variants(source)]
    assert [path for path in store.variants_root.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("command", [["inspect"], ["quantize", "--to", "F32", "--out", "unused"]])
def test_other_commands_take_models_by_name_too(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("HEARTH_MODELS", str(models))
    monkeypatch.chdir(tmp_path)
    assert main([command[0], "several", *command[1:]]) == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "absent is neither a file nor a model of"),
        ("no/such/file.gguf", "is neither a file nor a model of"),
        ("./absent.gguf", "absent.gguf: cannot be read: No such file or directory"),
    ],
)
def test_source_that_is_nothing_is_refused_by_name(models: Path, capsys: Capture, name: str, sentence: str) -> None:
    assert main(["convert", name, "--models", str(models), "--out", str(models / "x")]) == 1
    assert sentence in last_line(capsys)["error"]


def test_missing_store_is_told(tmp_path: Path, capsys: Capture) -> None:
    assert main(["convert", "absent", "--models", str(tmp_path / "none")]) == 1
    assert f"there is no model store at {tmp_path / 'none'}" in last_line(capsys)["error"]
    assert not (tmp_path / "none").exists()


def test_missing_out_is_told(tiny_gguf: Path, capsys: Capture) -> None:
    assert main(["convert", str(tiny_gguf)]) == 1
    assert "--out is missing" in last_line(capsys)["error"]


# dry runs


@pytest.mark.parametrize("goal", ["bytes", "float"])
def test_dry_run_foretells_files_and_memory(directory: Path, tmp_path: Path, capsys: Capture, goal: str) -> None:
    assert main(["convert", str(directory), "--goal", goal, "--dry-run"]) == 0
    plan = last_line(capsys)["plan"]
    assert main(["convert", str(directory), "--goal", goal, "--out", str(tmp_path)]) == 0
    info = info_of(tmp_path / plan["variant"])
    for name, num_bytes in info.files.items():
        assert abs(plan["files"][name] - num_bytes) <= 0.3 * num_bytes, name
    assert plan["files"]["model.onnx.data"] == info.files["model.onnx.data"]
    assert plan["num_bytes"] == sum(plan["files"].values())
    memory = needs(info, num_ctx=plan["num_ctx"])
    assert abs(plan["loaded_bytes"] - memory.loaded_bytes) < 1 << 16
    assert abs(plan["total_bytes"] - memory.total_bytes) < 1 << 16
    facts = {key: plan[key] for key in ("architecture", "kind", "format", "file_type", "num_ctx")}
    assert facts == {"architecture": "llama", "kind": "decoder", "format": "safetensors", "file_type": "BF16",
                     "num_ctx": 4096}  # fmt: skip


def test_dry_run_of_what_must_be_quantized_first_says_how(directory: Path, capsys: Capture) -> None:
    assert main(["convert", str(directory), "--variant", "cpu-int4", "--dry-run"]) == 1
    assert "run 'hearth-export quantize" in last_line(capsys)["error"]


# a terminal


def on_terminal(*arguments: str) -> tuple[int, str]:
    """Status and output of the command on a terminal of its own."""
    fd, inner = pty.openpty()
    command = [sys.executable, "-m", "hearth_export", *arguments]
    child = subprocess.Popen(command, stdout=inner, stderr=inner, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(inner)
    seen = b""
    try:
        while block := os.read(fd, 4096):
            seen += block
    except OSError:  # the other end is closed
        pass
    os.close(fd)
    return child.wait(60), seen.decode()


def test_terminal_sees_bars_and_sentences(tiny_gguf: Path, tmp_path: Path) -> None:
    status, seen = on_terminal("convert", str(tiny_gguf), "--out", str(tmp_path))
    assert status == 0
    assert "quantizing" in seen and "verifying" in seen and "made " in seen
    assert "{" not in seen.replace("\x1b[", "")
    status, seen = on_terminal("convert", str(tiny_gguf), "--dry-run")
    assert status == 0
    assert "cpu-int4: decoder of architecture llama" in seen and "in memory, loaded" in seen
    status, seen = on_terminal("convert", str(tmp_path / "absent"), "--out", str(tmp_path))
    assert (status, seen) == (1, f"error: {tmp_path}/absent: cannot be read: No such file or directory\r\n")


# memory

MAX_PEAK_BYTES = 250 << 20


def test_large_directory_is_quantized_in_little_memory(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 1,
              "num_attention_heads": 32, "max_position_embeddings": 128, "vocab_size": 300,
              "tie_word_embeddings": True}  # fmt: skip
    directory = write_tiny_directory(tmp_path / "large")
    source = {"model.embed_tokens.weight": (300, 4096), "model.norm.weight": (4096,)}
    place = "model.layers.0"
    source |= {f"{place}.self_attn.{kind}_proj.weight": (4096, 4096) for kind in "qkvo"}
    source |= {f"{place}.mlp.{kind}_proj.weight": (8192, 4096) for kind in ("gate", "up")}
    source |= {f"{place}.mlp.down_proj.weight": (4096, 8192)}
    source |= {f"{place}.{kind}_layernorm.weight": (4096,) for kind in ("input", "post_attention")}
    tensors = {name: _zeros(shape) for name, shape in source.items()}
    write_repository(directory, config, tensors)
    assert (directory / "model.safetensors").stat().st_size > 300 << 20
    done = run("quantize", str(directory), "--to", "Q4_0", "--out", str(tmp_path / "out.gguf"))
    assert (done.returncode, done.errors) == (0, "")
    assert done.peak_bytes <= MAX_PEAK_BYTES


def _zeros(shape: tuple[int, ...]) -> Stored:
    import numpy as np

    return Stored(np.zeros(shape, np.float32), "BF16")


def test_one_file_too_many_is_told(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a", "b"):
        write_tiny_gguf(tmp_path / f"{name}.gguf")
    assert main(["convert", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "there must be all parts of one model, and no other file" in last_line(capsys)["error"]
