"""Models of several files through the API and the command line, and from one device to another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hearthd.store import media, names
from hearthd.store.store import open_store
from tests.e2e.daemon import Daemon, running
from tests.e2e.hearth import hearth
from tests.hearth_export.adapters import random_pair, write_peft_adapter
from tests.tiny_directory import write_tiny_directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Hugging Face in two shards."""
    return write_tiny_directory(tmp_path_factory.mktemp("directory") / "tiny", num_shards=2)


@pytest.fixture(scope="module")
def sharing(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that has the model `tiny` of several files, made by the command line, and shares it."""
    root = tmp_path_factory.mktemp("sharing")
    with running(root, HEARTH_SHARE="1") as daemon:
        (root / "Modelfile").write_text(f"FROM {directory}\nSYSTEM be brief\n")
        done = hearth(daemon, root, "create", "tiny", "-f", str(root / "Modelfile"))
        assert done.returncode == 0, done.stderr
        assert "unpacking model metadata" in done.stderr
        yield daemon


def answer(daemon: Daemon, model: str = "tiny") -> str:
    body = {"model": model, "prompt": "the", "stream": False, "options": {"temperature": 0, "num_predict": 8}}
    response = daemon.post("/api/generate", **body)
    assert response.status_code == 200, response.text
    return str(response.json()["response"])


def test_model_of_a_directory_answers_and_is_shown(sharing: Daemon, directory: Path) -> None:
    assert answer(sharing)
    shown = sharing.post("/api/show", model="tiny").json()
    details: dict[str, Any] = shown["details"]
    kept = {key: details[key] for key in ("format", "family", "quantization_level", "parameter_size")}
    assert kept == {"format": "safetensors", "family": "llama", "quantization_level": "BF16", "parameter_size": "91K"}
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 4096
    assert {tensor["type"] for tensor in shown["tensors"]} == {"BF16"}
    assert "completion" in shown["capabilities"]
    assert "FROM tiny:latest" in shown["modelfile"]
    assert shown["system"] == "be brief"
    assert "tokenizer.chat_template" not in shown["model_info"]
    verbose = sharing.post("/api/show", model="tiny", verbose=True).json()
    assert verbose["details"] == details
    (listed,) = sharing.http.get("/api/tags").json()["models"]
    assert listed["details"]["format"] == "safetensors"
    assert listed["size"] > sum(path.stat().st_size for path in directory.iterdir())


def test_its_modelfile_makes_it_again(sharing: Daemon) -> None:
    text = sharing.post("/api/show", model="tiny").json()["modelfile"]
    assert sharing.lines("/api/create", model="again", modelfile=text)[-1] == {"status": "success"}
    assert answer(sharing, "again") == answer(sharing)
    sharing.delete("again")


def test_neighbour_pulls_all_files_and_answers_the_same(sharing: Daemon, tmp_path: Path) -> None:
    name = f"127.0.0.1:{sharing.port}/library/tiny"
    with running(tmp_path) as other:
        lines = other.lines("/api/pull", model=f"http://{name}", insecure=True)
        assert lines[-1] == {"status": "success"}, lines
        assert answer(other, name) == answer(sharing)
        theirs = open_store(tmp_path / "models").resolve(names.parse(name))
        ours = open_store(sharing.log_path.parent / "models").resolve(names.parse("tiny"))
        assert theirs.digest == ours.digest
        assert len(theirs.manifest.of(media.FILE)) == len(ours.manifest.of(media.FILE)) == 6
        other.delete(name)
        assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == []


def test_adapter_is_uploaded_and_merged_by_the_command_line(sharing: Daemon, tmp_path: Path) -> None:
    pairs = {f"blk.{layer}.ffn_down.weight": random_pair(64, 128, seed=layer) for layer in (0, 1)}
    write_peft_adapter(tmp_path / "peft", pairs, lora_alpha=40)
    (tmp_path / "Modelfile").write_text("FROM tiny\nADAPTER ./peft\n")
    done = hearth(sharing, tmp_path, "create", "tuned", "-q", "q8_0")
    assert done.returncode == 0, done.stderr
    assert answer(sharing, "tuned") != answer(sharing)
    shown = sharing.post("/api/show", model="tuned").json()
    assert (shown["details"]["format"], shown["details"]["quantization_level"]) == ("gguf", "Q8_0")
    sharing.delete("tuned")


def test_directory_that_holds_no_checkpoint_is_refused_before_anything_is_sent(sharing: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM .\n")
    done = hearth(sharing, tmp_path, "create", "none")
    assert done.returncode == 1
    assert "there is no *.safetensors, *.gguf or *.onnx" in done.stderr


def test_uploads_of_an_unfit_checkpoint_are_refused_in_one_sentence(sharing: Daemon, tmp_path: Path) -> None:
    directory = write_tiny_directory(tmp_path / "tiny", model_type="rwkv")
    (tmp_path / "Modelfile").write_text("FROM ./tiny\n")
    done = hearth(sharing, tmp_path, "create", "none")
    assert done.returncode == 1
    assert "model_type is 'rwkv'" in done.stderr
    assert "Traceback" not in done.stderr and str(directory) not in done.stderr
    response = httpx.post(f"{sharing.url}/api/show", json={"model": "none"})
    assert response.status_code == 404
