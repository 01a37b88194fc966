"""Creates of models, run to their end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hearthd.errors import HearthError
from hearthd.modelfile import parse
from hearthd.registry.create import create
from hearthd.registry.progress import Progress
from hearthd.registry.spec import CreateSpec, spec_from_modelfile
from hearthd.store import names
from hearthd.store.store import ModelStore, StoredModel


def spec(name: str = "new", **fields: Any) -> CreateSpec:
    """A spec of the model `name`."""
    return CreateSpec(name=names.parse(name), **fields)


def make(store: ModelStore, spec: CreateSpec, **settings: Any) -> list[Progress]:
    """What a create reports."""

    async def collect() -> list[Progress]:
        return [progress async for progress in create(store, spec, **settings)]

    return asyncio.run(collect())


def make_from_text(store: ModelStore, name: str, text: str, **settings: Any) -> StoredModel:
    """The model made from a Modelfile."""
    steps = make(store, spec_from_modelfile(names.parse(name), parse(text)), **settings)
    rest = [step.status for step in steps if step.status != "removing unused layers"]
    assert rest[-2:] == ["writing manifest", "success"]
    return store.resolve(names.parse(name))


def refusal(store: ModelStore, spec: CreateSpec, **settings: Any) -> HearthError:
    """Why a create is refused."""
    with pytest.raises(HearthError) as caught:
        make(store, spec, **settings)
    return caught.value


def everything(store: ModelStore) -> set[str]:
    """All files of the store, by their paths below its root."""
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


def upload(store: ModelStore, path: Path) -> str:
    """The digest of the file, uploaded."""
    return store.blobs.put(path.read_bytes())
