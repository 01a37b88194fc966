"""Creates that meet one another, and deletes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from hearthd.errors import BadRequest
from hearthd.registry.create import create
from hearthd.registry.progress import Progress
from hearthd.registry.spec import CreateSpec
from hearthd.store import names
from hearthd.store.store import ModelStore, StoredModel
from tests.hearthd.registry.making import everything, make, spec

NUM_ROUNDS = 20


async def steps_of(store: ModelStore, spec: CreateSpec) -> list[Progress]:
    return [step async for step in create(store, spec)]


async def interrupted(store: ModelStore, spec: CreateSpec, at: str, action: Callable[[], object]) -> list[Progress]:
    """A create, with `action` done at the first status that begins with `at`."""
    seen: list[Progress] = []
    async with aclosing(create(store, spec)) as steps:
        async for step in steps:
            if step.status.startswith(at) and not any(known.status.startswith(at) for known in seen):
                action()
            seen.append(step)
    assert any(step.status.startswith(at) for step in seen)
    return seen


def check_whole(store: ModelStore, model: StoredModel) -> None:
    """Every blob is what its digest says, and there is a variant."""
    for part in model.manifest.parts:
        content = store.blobs.path(part.digest).read_bytes()
        assert "sha256:" + hashlib.sha256(content).hexdigest() == part.digest
    assert model.source is not None
    assert len(store.variants(model.source)) == 1
    store.contents(model)


def check_tidy(store: ModelStore) -> None:
    """Nothing is in the store but what its models use."""
    used = {part.digest for model in store.models() for part in model.manifest.parts}
    assert set(store.blobs.digests()) == used
    assert {path.name for path in store.variants_root.iterdir()} == {
        (model.source or "").removeprefix("sha256:") for model in store.models()
    }


def test_of_two_creates_of_a_name_one_wins_whole(store: ModelStore, base: StoredModel) -> None:
    async def race(at: int) -> None:
        texts = [f"left {at}", f"right {at}"]
        await asyncio.gather(*(steps_of(store, spec("x", from_model=base.name, system=text)) for text in texts))
        model = store.resolve(names.parse("x"))
        assert store.contents(model).system in texts
        check_whole(store, model)

    for at in range(NUM_ROUNDS):
        asyncio.run(race(at))
        check_tidy(store)


def test_two_creates_from_a_new_file_share_what_they_bring(store: ModelStore, tiny_gguf: Path) -> None:
    async def race() -> None:
        await asyncio.gather(*(steps_of(store, spec(name, path=tiny_gguf)) for name in ("one", "two")))

    asyncio.run(race())
    for name in ("one", "two"):
        check_whole(store, store.resolve(names.parse(name)))
    check_tidy(store)


def test_create_that_is_left_takes_nothing_from_another(store: ModelStore, tiny_gguf: Path) -> None:
    async def leave(ready: asyncio.Event) -> None:
        async with aclosing(create(store, spec("left", path=tiny_gguf, system="x"))) as steps:
            async for step in steps:
                if step.status.startswith("converting"):
                    break
        ready.set()

    async def race() -> None:
        await asyncio.gather(leave(asyncio.Event()), steps_of(store, spec("stays", path=tiny_gguf, system="x")))

    asyncio.run(race())
    (model,) = store.models()
    assert model.name == names.parse("stays")
    check_whole(store, model)


@pytest.mark.parametrize("at", ["using existing layer", "creating new layer", "writing manifest"])
def test_parent_deleted_meanwhile_leaves_a_whole_child(store: ModelStore, base: StoredModel, at: str) -> None:
    asyncio.run(interrupted(store, spec("x", from_model=base.name, system="new"), at, lambda: store.delete(base.name)))
    (model,) = store.models()
    assert model.name == names.parse("x")
    check_whole(store, model)
    check_tidy(store)


@pytest.mark.parametrize("at", ["using existing layer", "creating new layer", "writing manifest"])
def test_model_deleted_while_it_is_made_anew_is_there_whole_or_gone(
    store: ModelStore, base: StoredModel, at: str
) -> None:
    make(store, spec("x", from_model=base.name, system="old"))
    x = names.parse("x")
    asyncio.run(interrupted(store, spec("x", from_model=base.name, system="new"), at, lambda: store.delete(x)))
    for model in store.models():
        check_whole(store, model)
    check_tidy(store)


def test_deletes_and_creates_of_a_name_damage_nothing(store: ModelStore, base: StoredModel) -> None:
    x = names.parse("x")

    async def make_it(at: int) -> None:
        await steps_of(store, spec("x", from_model=base.name, system=f"round {at}"))

    async def delete_it() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            if any(model.name == x for model in store.models()):
                store.delete(x)

    async def race() -> None:
        for at in range(NUM_ROUNDS):
            await asyncio.gather(make_it(at), delete_it(), make_it(-at))

    asyncio.run(race())
    for model in store.models():
        check_whole(store, model)
    check_tidy(store)


def test_upload_removed_meanwhile_is_an_error_that_names_it(store: ModelStore, tiny_gguf: Path) -> None:
    digest = store.blobs.put(tiny_gguf.read_bytes())

    async def vanish() -> None:
        store.blobs.remove(digest)
        await steps_of(store, spec(files={"m.gguf": digest}))

    with pytest.raises(BadRequest, match=f"{digest}.*upload it"):
        asyncio.run(vanish())
    assert everything(store) == set()


def test_name_in_another_case_replaces_the_model(store: ModelStore, base: StoredModel) -> None:
    make(store, spec("Mixed", from_model=names.parse("BASE"), system="one"))
    make(store, spec("mIXED", from_model=base.name, system="two"))
    assert sorted(model.name.short for model in store.models()) == ["Mixed:latest", "base:latest"]
    assert store.contents(store.resolve(names.parse("mixed"))).system == "two"
    check_tidy(store)
