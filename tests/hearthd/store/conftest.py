from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hearthd.store import media, names
from hearthd.store.manifest import ImageConfig, Layer, Manifest, encode
from hearthd.store.store import ModelStore, StoredModel, open_store

MakeModel = Callable[..., StoredModel]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return open_store(tmp_path / "models")


@pytest.fixture
def make_model(store: ModelStore) -> MakeModel:
    """make_model(name, checkpoint, **layers): a model whose layers hold the texts given."""

    def make(name: str, checkpoint: bytes = b"GGUF", **layers: Any) -> StoredModel:
        def layer(media_type: str, data: bytes) -> Layer:
            return Layer(media_type, store.blobs.put(data), len(data))

        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in layers.items()}
        parts = [layer(media.MODEL, checkpoint)]
        parts += [layer(f"application/vnd.ollama.image.{key}", text.encode()) for key, text in texts.items()]
        config = layer(media.CONFIG, encode(ImageConfig(model_format="gguf", base_name=name)))
        manifest = Manifest(config=config, layers=tuple(parts))
        return store.write_manifest(names.parse(name), encode(manifest))

    return make
