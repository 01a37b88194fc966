from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hearthd import modelfile
from hearthd.errors import BadRequest, Forbidden
from hearthd.registry.spec import CreateSpec, check_parameters, spec_from_modelfile
from hearthd.store import names
from hearthd.store.contents import Message

NAME = names.parse("m")
DIGEST = "sha256:" + "ab" * 32


def spec(text: str, base_dir: Path | None = None) -> CreateSpec:
    return spec_from_modelfile(NAME, modelfile.parse(text), base_dir)


def test_every_instruction_has_its_field() -> None:
    assert spec(
        'FROM me/base:1\nTEMPLATE t\nSYSTEM ""\nLICENSE a\nLICENSE b\nMESSAGE user hi\nREQUIRES 0.14.0\n'
        "PARAMETER stop x\nPARAMETER top_k 1\nPARAMETER stop y\nPARAMETER top_k 2"
    ) == CreateSpec(
        name=NAME,
        from_model=names.parse("me/base:1"),
        template="t",
        system="",
        licenses=("a", "b"),
        messages=(Message("user", "hi"),),
        requires="0.14.0",
        parameters={"stop": ("x", "y"), "top_k": 2},
    )


def test_names_of_other_servers_code_are_taken_with_a_warning() -> None:
    taken = spec("FROM a\nRENDERER r\nPARSER old\nPARSER p\nPARAMETER mirostat 1\nPARAMETER top_k 1")
    assert (taken.renderer, taken.parser) == ("r", "p")
    assert taken.warnings == [
        "parameter mirostat is deprecated",
        "renderer r is kept, and has no effect on this server",
        "parser p is kept, and has no effect on this server",
    ]
    assert taken.parameters == {"mirostat": 1, "top_k": 1}


def test_adapters_are_uploaded_blobs_and_files_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "lora.gguf").touch()
    taken = spec(f"FROM a\nADAPTER @{DIGEST}\nADAPTER {tmp_path}/lora.gguf")
    assert list(taken.adapters.values()) == [DIGEST]
    assert taken.adapter_paths == (tmp_path / "lora.gguf",)


@pytest.mark.parametrize("text", ["llama3:cloud", "gpt-oss:120b-cloud"])
def test_parent_on_somebody_elses_machine_is_forbidden(text: str) -> None:
    with pytest.raises(Forbidden, match="remote model is unavailable"):
        spec(f"FROM {text}")


def test_what_is_not_said_is_kept() -> None:
    kept = spec("FROM base")
    assert (kept.template, kept.system, kept.parameters, kept.messages) == (None, None, {}, ())


@pytest.mark.parametrize("text", ["@" + DIGEST, DIGEST, "@" + DIGEST.replace(":", "-")])
def test_from_digest_is_an_uploaded_blob(text: str) -> None:
    assert list(spec(f"FROM {text}").files.values()) == [text.removeprefix("@")]


def test_from_path_is_a_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a model.gguf"
    path.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert spec(f"FROM {path}").path == path
    assert spec("FROM ~/a model.gguf").path == path
    assert spec("FROM ./a model.gguf", tmp_path).path == path
    assert spec("FROM a model.gguf", tmp_path).path == path


def test_file_beside_the_modelfile_wins_over_a_model_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "base").touch()
    assert spec("FROM base", tmp_path).path == tmp_path / "base"
    assert spec("FROM base").from_model == names.parse("base")
    assert spec("FROM other", tmp_path).from_model == names.parse("other")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("FROM /nowhere/x.gguf", "FROM /nowhere/x.gguf: no such file on the machine"),
        ("FROM ~/nowhere/x.gguf", "no such file on the machine"),
        ("FROM ./x.gguf", "a relative path needs a Modelfile on this machine"),
        (f"FROM /{'x' * 5000}", "no such file on the machine"),
        ("FROM a b", "'a b' is neither a file of this machine nor a model's name"),
        ("FROM @sha256:12", "is neither a file of this machine nor a model's name"),
        ("FROM a\nFROM b", "a second FROM is not supported yet"),
        ("FROM a\nADAPTER b", "ADAPTER 'b' is no file of this machine"),
        ("FROM a\nADAPTER /nowhere/b.gguf", "ADAPTER /nowhere/b.gguf: no such file on the machine"),
        ("FROM a\nDRAFT b", "DRAFT is not supported yet"),
        ("FROM a\nREQUIRES soon", "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM a\nPARAMETER warmth 1", "unknown parameter 'warmth'"),
        ("FROM a\nPARAMETER top_k x", "invalid int value [x]"),
    ],
)
def test_what_cannot_be_made_is_refused_naming_it(text: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        spec(text)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 500


def test_json_parameters_take_their_types() -> None:
    given: dict[str, Any] = {"stop": "x", "top_k": 1.9, "temperature": 1, "seed": None}
    assert check_parameters(given) == {"stop": ("x",), "top_k": 1, "temperature": 1.0}


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"warmth": 1}, "unknown parameter 'warmth'"),
        ({"top_k": "x"}, 'option "top_k" must be of type integer'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_unfit_json_parameters_are_refused(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_parameters(parameters)
    assert str(caught.value) == sentence
