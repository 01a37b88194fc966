from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hearthd.store import names
from hearthd.store.store import ModelStore, StoredModel, open_store
from tests.hearthd.registry.making import make_from_text

MakeConverter = Callable[[str], str]

# a stand-in for the converter, to provoke what the real one does only when things go wrong
PRELUDE = """\
import json, os, signal, sys, time
from pathlib import Path
arguments = sys.argv[1:]
assert arguments[:2] == ["-m", "hearth_export"], arguments
def option(name): return arguments[arguments.index(name) + 1]
def say(**line): print(json.dumps(line), flush=True)
def publish(name="cpu-int4"):
    directory = Path(option("--out")) / name
    directory.mkdir(parents=True)
    info = dict(name=name, exporter="1", source=option("--digest"), architecture="llama", files={}, holders={},
                context_length=8, vocab_size=8, hidden_size=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8,
                ropes=[{"inv_freq": [1.0]}])
    (directory / "variant.json").write_text(json.dumps(info))
def unfinished():
    directory = Path(option("--out")) / f".tmp-{os.getpid()}-x"
    directory.mkdir(parents=True)
    (directory / "model.onnx").touch()
"""


@pytest.fixture
def make_converter(tmp_path: Path) -> MakeConverter:
    """make_converter(code): a program to be started in the place of Python, which runs `code`."""

    def make(code: str) -> str:
        script = tmp_path / "converter.py"
        script.write_text(PRELUDE + code)
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {json.dumps(str(script))} "$@"\n')
        program.chmod(0o755)
        return str(program)

    return make


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store."""
    return open_store(tmp_path / "models")


@pytest.fixture(scope="session")
def base_root(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the model `base`, made once."""
    store = open_store(tmp_path_factory.mktemp("base") / "models")
    make_from_text(
        store,
        "base",
        f"FROM {tiny_gguf}\nSYSTEM old\nTEMPLATE old\nLICENSE one\nMESSAGE user old\n"
        "PARAMETER top_k 1\nPARAMETER stop a\nPARAMETER stop b",
    )
    return store.root


@pytest.fixture
def base(store: ModelStore, base_root: Path) -> StoredModel:
    """The model `base`, in this test's store."""
    shutil.copytree(base_root, store.root, dirs_exist_ok=True)
    return store.resolve(names.parse("base"))
