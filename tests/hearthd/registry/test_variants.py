from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hearth_export.precision import Goal
from hearthd.goals import BYTES, FLOAT, GOALS
from hearthd.registry.progress import Progress
from hearthd.registry.variants import ensure_variant
from hearthd.store.store import ModelStore, open_store


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return open_store(tmp_path / "models")


def test_converting_anew_forgets_the_prompts_that_the_variant_before_evaluated(
    store: ModelStore, tiny_gguf: Path
) -> None:
    digest = store.blobs.put(tiny_gguf.read_bytes())
    prompt = store.prefix_dir / digest.removeprefix("sha256:") / "key" / "a.kv"
    seen: list[Progress] = []
    for is_new in (True, False):
        prompt.parent.mkdir(parents=True, exist_ok=True)
        prompt.touch()
        seen.clear()
        asyncio.run(ensure_variant(store, digest, seen.append))
        assert bool(seen) == is_new
        assert prompt.exists() != is_new
    assert store.variants(digest)


def test_every_goal_of_the_settings_is_one_of_the_converter_s_and_the_other_way_round() -> None:
    assert list(Goal) == list(GOALS)


def test_variant_for_the_store_s_goal_comes_first_and_one_for_another_does_not_serve(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    made: list[list[str]] = []
    for goal in (FLOAT, BYTES, FLOAT):
        store = open_store(tmp_path / "models", goal=goal)
        digest = store.blobs.put(tiny_gguf.read_bytes())
        asyncio.run(ensure_variant(store, digest, lambda step: None))
        made.append([info.goal for _, info in store.variants(digest)])
    assert made == [[FLOAT], [BYTES, FLOAT], [FLOAT, BYTES]]
