from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from hearthd.api import binding
from hearthd.api.create import MAX_MODELFILE_BYTES, spec_of
from hearthd.api.wire import CreateRequest
from hearthd.errors import HearthError
from hearthd.registry.spec import CreateSpec
from hearthd.store import names
from hearthd.store.contents import Message

DIGEST = "sha256:" + "ab" * 32


def asked(**fields: Any) -> CreateSpec:
    """What a request asks for, as a client sends it."""
    return asyncio.run(spec_of(binding.bind(json.dumps(fields).encode(), CreateRequest)))


def refusal(**fields: Any) -> HearthError:
    with pytest.raises(HearthError) as caught:
        asked(**fields)
    return caught.value


def test_fields_say_what_a_modelfile_says() -> None:
    spec = asked(
        **{"from": "Base"},
        model="m",
        template="t",
        license=["a", "", "b"],
        system="s",
        parameters={"stop": "x", "top_k": None, "temperature": 1},
        messages=[{"role": "USER", "content": "hi"}],
        renderer="r",
        parser="p",
        requires="0.14.0",
        info={"parameter_size": "9B"},
        quantize="q8_0",
        adapters={"a.gguf": DIGEST},
    )
    assert spec == CreateSpec(
        name=names.parse("m"),
        from_model=names.parse("Base"),
        template="t",
        licenses=("a", "b"),
        system="s",
        parameters={"stop": ("x",), "temperature": 1.0},
        messages=(Message("user", "hi"),),
        renderer="r",
        parser="p",
        requires="0.14.0",
        info={"model_type": "9B"},
        quantize="q8_0",
        adapters={"a.gguf": DIGEST},
    )


def test_files_and_the_old_names_of_fields_are_understood() -> None:
    spec = asked(model="", name="m", files={"m.gguf": DIGEST}, quantization="q4_0", license="one", messages=None)
    assert (spec.name.model, spec.files, spec.quantize, spec.licenses) == ("m", {"m.gguf": DIGEST}, "q4_0", ("one",))


def test_empty_texts_keep_what_is_inherited() -> None:
    spec = asked(**{"from": "b"}, model="m", system="", template="", license="", requires="", parameters={})
    assert spec == CreateSpec(name=names.parse("m"), from_model=names.parse("b"))


def test_modelfile_wins_over_its_path_and_takes_quantize() -> None:
    spec = asked(model="m", modelfile="FROM b\nSYSTEM s", path="/nowhere", quantize="q8_0")
    assert (spec.from_model, spec.system, spec.quantize) == (names.parse("b"), "s", "q8_0")


def test_modelfile_is_read_from_its_path_and_files_beside_it_are_found(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    path = tmp_path / "Modelfile"
    path.write_bytes("FROM ./m.gguf\nSYSTEM ü".encode("utf-16"))
    spec = asked(model="m", path=str(path))
    assert (spec.path, spec.system) == (tmp_path / "m.gguf", "ü")


def test_modelfile_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    long = tmp_path / "long"
    with long.open("wb") as file:
        file.truncate(MAX_MODELFILE_BYTES + 1)
    for path, sentence in (
        (tmp_path, "is not a file of the machine"),
        (tmp_path / "absent", "is not a file of the machine"),
        (tmp_path / "absent" / ("x" * 5000), "error reading modelfile"),
        (long, f"exceeds {MAX_MODELFILE_BYTES} bytes"),
    ):
        error = refusal(model="m", path=str(path))
        assert (error.status, sentence in str(error)) == (400, True), error


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"from": "b"}, 400, "invalid model name"),
        ({"model": "a b", "from": "b"}, 400, "invalid model name"),
        ({"model": "m"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "m", "from": "a b"}, 400, "invalid model name"),
        ({"model": "m", "from": "b:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ({"model": "m", "modelfile": "FROM b:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ({"model": "m", "from": "b", "remote_host": "x"}, 400, "remote_host: this server runs its models itself"),
        ({"model": "m", "from": "b", "draft_files": {"a": DIGEST}}, 400, "draft models are not supported yet"),
        ({"model": "m", "from": "b", "draft_quantize": "q8_0"}, 400, "draft models are not supported yet"),
        ({"model": "m", "from": "b", "requires": "1"}, 400, "requires must be a valid semver (e.g. 0.14.0)"),
        ({"model": "m", "from": "b", "parameters": {"x": 1}}, 400, "unknown parameter 'x'"),
        ({"model": "m", "from": "b", "info": {"base_name": 1}}, 400, 'info field "base_name" must be a string'),
        ({"model": "m", "from": "b", "messages": [{"role": "user", "images": ["eA=="]}]}, 400, "can hold text only"),
        ({"model": "m", "from": "b", "license": 1}, 400, "license"),
    ],
)
def test_request_at_fault_is_told_what_is_wrong(fields: dict[str, Any], status: int, sentence: str) -> None:
    error = refusal(**fields)
    assert error.status == status
    assert sentence in str(error)
