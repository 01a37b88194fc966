from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hearthd.errors import StoreError
from hearthd.store.contents import Message, ModelContents
from hearthd.store.store import ModelStore, StoredModel

MakeModel = Callable[..., StoredModel]


def test_every_layer_is_told(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model(
        "m",
        b"GGUF",
        adapter="a",
        projector="p",
        template="{{ .Prompt }}",
        system="be kind",
        params={"stop": ["x"], "top_k": 3},
        messages=[{"role": "user", "content": "hi", "images": None}],
        license="MIT",
    )
    contents = store.contents(model)
    assert contents.model_path is not None
    assert contents.model_path.read_bytes() == b"GGUF"
    assert contents.model_digest == model.source
    assert [path.read_text() for path in contents.adapters + contents.projectors] == ["a", "p"]
    assert contents.template == "{{ .Prompt }}"
    assert contents.system == "be kind"
    assert contents.params == {"stop": ["x"], "top_k": 3}
    assert contents.messages == (Message("user", "hi"),)
    assert contents.licenses == ("MIT",)


def test_bare_model_has_empty_contents(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m")
    bare = ModelContents(model_digest=str(model.source), model_path=store.blobs.path(str(model.source)))
    assert store.contents(model) == bare


def test_old_prompt_layer_is_a_template(store: ModelStore, make_model: MakeModel) -> None:
    assert store.contents(make_model("m", prompt="{{ .Prompt }}")).template == "{{ .Prompt }}"


@pytest.mark.parametrize("layers", [{"params": "[1]"}, {"params": "{"}, {"messages": {"role": 1}}])
def test_damaged_layer_is_an_error_naming_its_blob(
    store: ModelStore, make_model: MakeModel, layers: dict[str, Any]
) -> None:
    model = make_model("m", **layers)
    with pytest.raises(StoreError, match=model.manifest.layers[-1].digest):
        store.contents(model)


def test_missing_layer_is_an_error_naming_its_blob(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m", system="x")
    store.blobs.remove(model.manifest.layers[-1].digest)
    with pytest.raises(StoreError, match=model.manifest.layers[-1].digest):
        store.contents(model)
