from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hearthd.engine.beside import Beside
from hearthd.engine.frames import Load
from hearthd.engine.loading import load_failure, loaded, open_model
from hearthd.store.variant import VARIANT_FILE

PROGRAM = """
import sys
from hearthd.engine.frames import Load
from hearthd.engine.loading import open_model
open_model(Load(sys.argv[1], num_ctx=64, kv_type=sys.argv[2]))
"""


@pytest.fixture
def directory(tiny_variant: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_variant, tmp_path / "variant")


def garble(path: Path) -> None:
    """Other bytes, as many."""
    path.write_bytes(b"\xff" * path.stat().st_size)


def load_in_a_fresh_process(directory: Path, kv_type: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(directory), kv_type]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_model_opens_with_slots_and_window_as_asked(directory: Path) -> None:
    load = Load(str(directory), num_ctx=64, num_slots=3)
    opened = open_model(load)
    assert opened.session is not None
    assert (opened.session.num_slots, opened.session.num_ctx) == (3, 64)
    assert opened.tokenizer.encode("hello")
    answer = loaded(load, opened, 5)
    assert (answer.num_slots, answer.num_ctx, answer.load_ns) == (3, 64, 5)


def test_resident_bytes_are_what_no_file_can_give_again(directory: Path) -> None:
    load = Load(str(directory), num_ctx=64)
    opened = open_model(load)
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("RssAnon"))
    answer = loaded(load, opened, 0)
    assert answer.resident_bytes == pytest.approx(int(line.split()[1]) << 10, rel=0.05)


@pytest.mark.parametrize("kv_type", ["", "q8_0"])
def test_fresh_process_opens_a_model(directory: Path, kv_type: str) -> None:
    assert load_in_a_fresh_process(directory, kv_type).returncode == 0


def test_vocabulary_alone_opens_without_a_graph(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"\xff" * (directory / "model.onnx").stat().st_size)
    load = Load(str(directory), num_ctx=64, vocab_only=True)
    opened = open_model(load)
    assert opened.session is None
    assert opened.tokenizer.encode("hello")
    assert loaded(load, opened, 0).device == "vocabulary only"


def test_garbled_tokenizer_is_named(directory: Path) -> None:
    garble(directory / "tokenizer.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a readable"):
        open_model(Load(str(directory), num_ctx=64))


@pytest.mark.parametrize("victim", ["model.onnx", "tokenizer.json"])
def test_garbled_file_ends_a_fresh_process_at_once(directory: Path, victim: str) -> None:
    garble(directory / victim)
    ended = load_in_a_fresh_process(directory)
    assert ended.returncode == 1
    assert victim in ended.stderr


def test_variant_that_is_not_whole_is_named(directory: Path) -> None:
    (directory / "model.onnx").unlink()
    with pytest.raises(ValueError, match=f"{VARIANT_FILE}: the converted model is incomplete or damaged"):
        open_model(Load(str(directory), num_ctx=64))


def test_want_of_memory_is_said_in_a_sentence() -> None:
    for error in (MemoryError(), RuntimeError("std::bad_alloc"), OSError("Cannot allocate memory")):
        assert load_failure(error).message.startswith("not enough memory to load the model")
    assert load_failure(ValueError("model.onnx: damaged")).message == "model.onnx: damaged"


def test_call_beside_gives_its_result_as_often_as_it_is_asked() -> None:
    beside = Beside(lambda: 5)
    assert (beside.result(), beside.result()) == (5, 5)


def test_call_beside_raises_what_it_raised() -> None:
    beside = Beside(lambda: [][0])  # type: ignore[var-annotated]
    with pytest.raises(IndexError):
        beside.result()
