from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearthd.errors import ModelNotFound, StoreError
from hearthd.store import names
from hearthd.store.manifest import encode
from hearthd.store.store import GARBAGE_AGE_S, PARTIAL_AGE_S, ModelStore, StoredModel, open_store
from hearthd.store.variant import RopeInfo, VariantInfo

MakeModel = Callable[..., StoredModel]


def name_of(text: str) -> names.ModelName:
    return names.parse(text)


def manifest_path(store: ModelStore, model: StoredModel) -> Path:
    return store.manifests.joinpath(*model.name.path)


def write_variant(store: ModelStore, digest: str, name: str = "cpu-int4", **changes: Any) -> Path:
    info = VariantInfo(
        name=name,
        exporter="1",
        source=digest,
        architecture="llama",
        files={"model.onnx": 4},
        holders={},
        context_length=8,
        vocab_size=8,
        hidden_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        ropes=[RopeInfo([1.0])],
    )
    directory = store.variant_root(digest) / name
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"onnx")
    (directory / "variant.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(info, **changes)))
    return directory


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# models


def test_new_store_is_made_with_its_directories(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a" / "b")
    assert store.writable
    assert store.models() == []
    assert store.manifests.stat().st_mode & 0o777 == 0o755


def test_store_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/models cannot be made"):
        open_store(tmp_path / "file" / "models")


def test_manifest_is_kept_byte_for_byte(store: ModelStore, make_model: MakeModel) -> None:
    first = make_model("first")
    data = b"  " + manifest_path(store, first).read_bytes() + b"\n\n"
    model = store.write_manifest(name_of("second"), data)
    assert manifest_path(store, model).read_bytes() == data
    assert model.digest == hashlib.sha256(data).hexdigest()
    assert model.size == first.size == sum(part.size for part in first.manifest.parts)


def test_manifest_without_its_blobs_is_not_written(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m", system="x")
    data = manifest_path(store, model).read_bytes()
    missing = model.manifest.layers[-1].digest
    store.blobs.remove(missing)
    with pytest.raises(StoreError, match=f"{missing} is missing"):
        store.write_manifest(name_of("n"), data)
    with pytest.raises(ModelNotFound):
        store.resolve(name_of("n"))


def test_models_are_listed_with_the_newest_first(store: ModelStore, make_model: MakeModel) -> None:
    for number, text in enumerate(("old", "me/new", "h:1/n/newest:t")):
        age(manifest_path(store, make_model(text)), 1000 - number * 100)
    assert [model.name.short for model in store.models()] == ["h:1/n/newest:t", "me/new:latest", "old:latest"]
    assert all(model.modified_at.utcoffset() is not None for model in store.models())


def test_replaced_manifest_is_read_anew(store: ModelStore, make_model: MakeModel) -> None:
    before = make_model("m", system="a")
    after = make_model("m", system="b")
    assert before.digest != after.digest
    assert store.resolve(name_of("m")) == after
    assert store.models() == [after]


def test_unknown_model_is_told_as_it_was_asked_for(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound) as caught:
        store.resolve(name_of("nope"), "NOPE")
    assert str(caught.value) == "model 'NOPE' not found"
    with pytest.raises(ModelNotFound, match="'nope:latest'"):
        store.resolve(name_of("nope"))


def test_name_that_no_file_can_have_is_not_found(store: ModelStore) -> None:
    with pytest.raises((ModelNotFound, StoreError)):
        store.resolve(name_of("h" * 300 + "/n/m"))


def test_models_are_found_whatever_the_case(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("Me/LLaMA3:8B")
    assert store.resolve(name_of("me/llama3:8b")) == model
    assert store.spelling(name_of("ME/llama3:8b")) == model.name


def test_new_tag_takes_the_spelling_of_what_is_here(store: ModelStore, make_model: MakeModel) -> None:
    make_model("Me/LLaMA3:8B")
    assert store.spelling(name_of("me/llama3:70B")).short == "Me/LLaMA3:70B"
    assert store.spelling(name_of("you/Other:1")).short == "you/Other:1"


def test_exact_spelling_wins_where_an_old_store_has_two(store: ModelStore, make_model: MakeModel) -> None:
    lower = make_model("llama3")
    data = manifest_path(store, lower).read_bytes()
    upper = store.write_manifest(name_of("LLAMA3"), data)
    assert store.resolve(name_of("LLAMA3")).name == upper.name
    assert store.resolve(name_of("llama3")).name == lower.name


def test_damaged_models_are_skipped_with_one_warning(
    store: ModelStore, make_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, bare = make_model("good"), make_model("bad"), make_model("bare")
    manifest_path(store, bad).write_bytes(b"{")
    store.blobs.remove(bare.manifest.config.digest)
    manifest_path(store, bare).touch()
    fresh = open_store(store.root)
    for _ in range(2):
        assert [model.name for model in fresh.models()] == [good.name]
    assert len([record for record in caplog.records if "is skipped" in record.message]) == 2
    with pytest.raises(StoreError, match="manifest is damaged"):
        fresh.resolve(bad.name)


def test_files_that_are_no_manifests_are_left_alone(
    store: ModelStore, make_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model("m")
    path = manifest_path(store, model)
    for stray in (
        path.with_name(".hidden"),
        path.with_name("no name"),
        path.parents[1] / "stray",
        path.parents[3] / "x",
    ):
        stray.write_bytes(b"{}")
    (path.parent / "directory").mkdir()
    (path.parent / "dangling").symlink_to("nowhere")
    assert [found.name for found in store.models()] == [model.name]
    assert "no name" in caplog.text


def test_huge_manifest_is_not_read(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m")
    os.truncate(manifest_path(store, model), 1 << 40)
    assert store.models() == []


def test_linked_model_is_listed_and_only_the_link_is_deleted(
    store: ModelStore, make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model("m")
    elsewhere = tmp_path / "elsewhere"
    manifest_path(store, model).rename(elsewhere)
    manifest_path(store, model).symlink_to(elsewhere)
    assert [found.name for found in store.models()] == [model.name]
    store.delete(model.name)
    assert elsewhere.exists()
    assert store.models() == []


# copy and delete


def test_copy_shares_all_blobs(store: ModelStore, make_model: MakeModel) -> None:
    source = make_model("m", system="x")
    before = store.blobs.digests()
    assert store.copy(name_of("M"), name_of("me/n")) == set()
    assert store.resolve(name_of("me/n")).digest == source.digest
    assert store.blobs.digests() == before
    assert store.copy(name_of("m"), name_of("M")) == set()
    assert len(store.models()) == 2


def test_copy_over_a_model_tells_what_that_one_used(store: ModelStore, make_model: MakeModel) -> None:
    make_model("m", system="x")
    replaced = make_model("n", b"GGUF-n", system="y")
    assert store.copy(name_of("m"), name_of("n")) == {part.digest for part in replaced.manifest.parts}


def test_what_was_held_when_it_became_unused_is_removed_at_the_end(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m", b"GGUF-m")
    checkpoint = str(model.source)
    with store.holding([checkpoint]), store.holding([checkpoint]):
        store.delete(name_of("m"))
        assert store.blobs.has(checkpoint)
    assert not store.blobs.has(checkpoint)


def test_what_was_held_and_found_a_user_again_stays(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m", b"GGUF-m")
    data = store.manifest_bytes(model.name)
    with store.holding([part.digest for part in model.manifest.parts]):
        store.delete(name_of("m"))
        store.replace_manifest(name_of("again"), data)
    assert all(store.blobs.has(part.digest) for part in model.manifest.parts)


def test_copy_of_an_unknown_model_is_not_found(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound):
        store.copy(name_of("m"), name_of("n"))


def test_delete_removes_what_only_that_model_used(store: ModelStore, make_model: MakeModel) -> None:
    first = make_model("first", b"GGUF-1", system="shared")
    second = make_model("second", b"GGUF-2", system="shared")
    variants = [write_variant(store, str(model.source)) for model in (first, second)]
    store.delete(name_of("FIRST"))
    assert store.models() == [second]
    assert set(store.blobs.digests()) == {part.digest for part in second.manifest.parts}
    assert [path.exists() for path in variants] == [False, True]
    assert not manifest_path(store, first).parent.exists()
    assert manifest_path(store, first).parents[1].exists()


def test_delete_of_an_unknown_model_is_told_as_it_was_asked_for(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="'Nope'"):
        store.delete(name_of("nope"), "Nope")


def test_delete_removes_a_damaged_model_too(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m")
    path = manifest_path(store, model)
    path.write_bytes(path.read_bytes()[:-3])
    store.delete(model.name)
    assert not path.exists()
    assert store.blobs.digests() == []


def test_blobs_of_a_damaged_model_are_not_taken_for_unused(store: ModelStore, make_model: MakeModel) -> None:
    damaged, other = make_model("damaged", b"GGUF-1"), make_model("other", b"GGUF-1")
    path = manifest_path(store, damaged)
    path.write_bytes(path.read_bytes()[:-3])
    store.delete(other.name)
    assert store.blobs.has(str(damaged.source))


def test_held_blobs_stay(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m")
    with store.holding([str(model.source)]):
        with store.holding([str(model.source)]):
            pass
        store.delete(model.name)
        assert store.blobs.digests() == [model.source]
    assert store.remove_unused([str(model.source)]) == [model.source]
    assert store.blobs.digests() == []


# garbage


def test_prune_removes_only_what_is_old_and_unused(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m")
    old, young = store.blobs.put(b"old"), store.blobs.put(b"young")
    partial = store.blobs.root / (young.replace(":", "-") + "-partial")
    stray = store.blobs.root / "notes.txt"
    empty = store.manifests / "h" / "n" / "empty"
    empty.mkdir(parents=True)
    unfinished = manifest_path(store, model).with_name(".tmp-1-a")
    for path in (partial, stray, unfinished):
        path.touch()
    used_variant, old_variant = write_variant(store, str(model.source)), write_variant(store, old)
    now = time.time()
    for path in (store.blobs.path(old), store.blobs.path(str(model.source)), partial, stray, unfinished):
        age(path, GARBAGE_AGE_S + 60)
    for path in (used_variant.parent, old_variant.parent):
        age(path, GARBAGE_AGE_S + 60)
    store.prune(now)
    assert set(store.blobs.digests()) == {part.digest for part in model.manifest.parts} | {young}
    assert [path.exists() for path in (partial, stray, unfinished, empty)] == [True, False, False, False]
    assert [path.exists() for path in (used_variant, old_variant)] == [True, False]
    store.prune(now + PARTIAL_AGE_S)
    assert not partial.exists()
    assert store.models() == [model]


def test_prune_keeps_blobs_that_a_damaged_manifest_mentions(store: ModelStore, make_model: MakeModel) -> None:
    model = make_model("m")
    path = manifest_path(store, model)
    path.write_bytes(path.read_bytes()[:-3])
    store.prune(time.time() + 2 * GARBAGE_AGE_S)
    assert store.blobs.has(str(model.source))


def test_removal_of_variants_follows_no_link(store: ModelStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    digest = store.blobs.put(b"x")
    write_variant(store, digest)
    (store.variant_root(digest) / "link").symlink_to(outside)
    store.remove_unused([digest])
    assert not store.variant_root(digest).exists()
    assert (outside / "file").exists()


def test_tidy_removes_unfinished_variants_of_dead_exporters(store: ModelStore) -> None:
    digest = store.blobs.put(b"x")
    whole = write_variant(store, digest)
    for pid in ("999999999", str(os.getpid()), "1", "x"):  # none of these is an exporter
        (store.variant_root(digest) / f".tmp-{pid}-a").mkdir()
    store.tidy()
    assert list(store.variant_root(digest).iterdir()) == [whole]


@pytest.mark.parametrize(("writer", "stays"), [("999999999", False), ("x", False), ("", False), ("alive", True)])
def test_tidy_removes_files_that_dead_writers_did_not_finish(
    store: ModelStore, make_model: MakeModel, writer: str, stays: bool
) -> None:
    model = make_model("model", b"GGUF-1")
    variant = write_variant(store, str(model.source))
    manifests = store.manifests.joinpath(*model.name.path).parent
    pid = str(os.getpid()) if writer == "alive" else writer
    temps = [directory / f".tmp-{pid}-a" for directory in (manifests, variant, variant.parent)]
    for temp in temps:
        temp.write_bytes(b"half of")
    store.tidy()
    assert [temp.exists() for temp in temps] == [stays] * 3
    assert [each.name.short for each in store.models()] == ["model:latest"]


def test_delete_removes_saved_prompts_of_what_only_that_model_used(store: ModelStore, make_model: MakeModel) -> None:
    first, second = make_model("first", b"GGUF-1"), make_model("second", b"GGUF-2")
    prompts = [write_prompt(store, str(model.source)) for model in (first, second)]
    store.delete(first.name)
    assert [path.exists() for path in prompts] == [False, True]
    store.copy(second.name, name_of("third"))
    store.delete(second.name)
    assert prompts[1].exists()


def test_tidy_removes_saved_prompts_of_models_that_are_gone(store: ModelStore, make_model: MakeModel) -> None:
    kept = write_prompt(store, str(make_model("m").source))
    gone, odd = write_prompt(store, store.blobs.put(b"unused")), store.prefix_dir / "odd" / "notes.txt"
    odd.parent.mkdir()
    odd.touch()
    store.tidy()
    assert [path for path in store.prefix_dir.rglob("*") if path.is_file()] == [kept]
    assert not gone.parents[1].exists()


def write_prompt(store: ModelStore, digest: str, name: str = "a.kv") -> Path:
    """What a runner saves."""
    path = store.prefix_dir / digest.removeprefix("sha256:") / "key" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"tokens")
    return path


# variants


def test_only_complete_variants_are_told(store: ModelStore) -> None:
    digest = store.blobs.put(b"x")
    whole = write_variant(store, digest)
    write_variant(store, digest, "cut", files={"model.onnx": 5})
    write_variant(store, digest, "lost", files={"model.onnx": 4, "model.data": 1})
    write_variant(store, digest, "future", schema=99)
    write_variant(store, digest, ".tmp-1-a")
    (store.variant_root(digest) / "empty").mkdir()
    assert [path for path, _ in store.variants(digest)] == [whole]
    assert store.source_info(digest) is None


def test_checkpoint_without_variants_has_none(store: ModelStore) -> None:
    assert store.variants("sha256:" + "0" * 64) == []


# read-only


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere, so it becomes nobody for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def frozen(store: ModelStore, make_model: MakeModel) -> Iterator[Path]:
    """A store with one model that nobody may write."""
    make_model("m", system="x")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = Path(name) / "models"
        shutil.copytree(store.root, root)
        directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for path in directories:
            path.chmod(0o555)
        yield root
        for path in directories:
            path.chmod(0o755)


def test_a_store_that_cannot_be_read_is_an_error_with_the_user_and_the_directory(frozen: Path) -> None:
    (frozen / "blobs").chmod(0o700)
    with (
        unprivileged(),
        pytest.raises(StoreError, match=r"cannot be read by the user \S+: .*/blobs: Permission denied"),
    ):
        open_store(frozen)
    frozen.chmod(0o700)
    with unprivileged(), pytest.raises(StoreError, match="set HEARTH_MODELS"):
        open_store(frozen)


def test_models_in_a_directory_that_cannot_be_read_are_skipped_and_lose_nothing(
    frozen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (host,) = (frozen / "manifests").iterdir()
    blobs = sorted((frozen / "blobs").iterdir())
    for directory in (frozen, frozen / "manifests", frozen / "blobs"):
        directory.chmod(0o777)
    host.chmod(0o700)
    with unprivileged():
        store = open_store(frozen)
        assert store.writable
        assert store.models() == store.models() == []
        store.tidy()
        store.prune(time.time() + 2 * PARTIAL_AGE_S)
    assert sorted((frozen / "blobs").iterdir()) == blobs
    assert caplog.text.count("the models in it are skipped") == 1


def test_read_only_store_serves_and_refuses_changes(frozen: Path) -> None:
    with unprivileged():
        check_read_only(open_store(frozen, frozen.parent / "cache"))


def check_read_only(store: ModelStore) -> None:
    assert not store.writable
    model = store.resolve(name_of("m"))
    assert store.contents(model).system == "x"
    assert store.variants_root == store.root.parent / "cache"
    store.tidy()
    store.prune(time.time() + 2 * GARBAGE_AGE_S)
    for change in (
        lambda: store.delete(model.name),
        lambda: store.copy(model.name, name_of("n")),
        lambda: store.write_manifest(name_of("n"), encode(model.manifest)),
    ):
        with pytest.raises(StoreError, match="read-only; set HEARTH_MODELS"):
            change()
    with pytest.raises(StoreError, match="not writable"):
        store.blobs.put(b"new")
    assert store.models() == [model]


def test_saved_prompts_stay_while_a_manifest_cannot_be_read(frozen: Path) -> None:
    (manifest,) = (path for path in (frozen / "manifests").rglob("*") if path.is_file())
    cached = ModelStore(frozen, variants=frozen.parent / "cache", writable=False)
    prompt = write_prompt(cached, "sha256:" + "ab" * 32)
    for directory in list(prompt.parents)[:4]:
        directory.chmod(0o777)
    for readable in (False, True):
        manifest.chmod(0o644 if readable else 0)
        with unprivileged():
            cached.tidy()
        assert prompt.exists() != readable
