"""Models of several files: directories of this machine and uploads, kept as an index and its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hearthd.errors import BadRequest, ExportFailed, StoreError
from hearthd.registry.variants import ensure_variant
from hearthd.store import media, names
from hearthd.store.files import read_index
from hearthd.store.store import ModelStore, StoredModel
from tests.hearth_export.adapters import random_pair, write_gguf_adapter, write_peft_adapter
from tests.hearth_export.gguf_parts import write_parts
from tests.hearthd.registry.making import everything, make, make_from_text, refusal, spec, upload
from tests.tiny import write_tiny_gguf
from tests.tiny_directory import write_tiny_directory

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Hugging Face."""
    return write_tiny_directory(tmp_path_factory.mktemp("directory") / "tiny")


def uploads(store: ModelStore, directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): upload(store, path) for path in sorted(directory.rglob("*")) if path.is_file()
    }


def made(store: ModelStore, name: str = "new") -> StoredModel:
    return store.resolve(names.parse(name))


def temporary(store: ModelStore) -> list[str]:
    return [path for path in everything(store) if ".tmp" in path]


def test_directory_becomes_an_index_and_its_files_and_is_converted(store: ModelStore, directory: Path) -> None:
    steps = [step.status for step in make(store, spec(path=directory))]
    model = made(store)
    assert [step for step in steps if step.startswith("using autodetected")] == ["using autodetected template chatml"]
    assert steps[-2:] == ["writing manifest", "success"]
    (index,) = model.manifest.of(media.INDEX)
    files = {layer.name: layer for layer in model.manifest.of(media.FILE)}
    assert (model.source, set(files)) == (index.digest, FILES)
    for name, layer in files.items():
        assert store.blobs.path(layer.digest).read_bytes() == (directory / name).read_bytes()
    listed = read_index(store.blobs, index.digest)
    assert listed is not None and listed.format == "safetensors"
    assert {name: file.digest for name, file in listed.files.items()} == {n: x.digest for n, x in files.items()}
    assert (model.config.model_format, model.config.file_type) == ("safetensors", "BF16")
    assert (model.config.model_family, model.config.capabilities) == ("llama", ("completion",))
    assert [info.source for _, info in store.variants(index.digest)] == [index.digest]
    assert temporary(store) == []


def test_same_files_give_the_same_index_whether_uploaded_or_on_this_machine(store: ModelStore, directory: Path) -> None:
    make(store, spec("one", path=directory))
    steps = make(store, spec("two", files=dict(reversed(uploads(store, directory).items()))))
    assert made(store, "one").source == made(store, "two").source
    assert not [step for step in steps if step.status.startswith("converting")]


def test_shards_and_a_modelfile_are_taken_and_prose_and_other_formats_left(store: ModelStore, tmp_path: Path) -> None:
    directory = write_tiny_directory(tmp_path / "tiny", num_shards=2, dtype="F16")
    (directory / "README.md").write_text("hello")
    (directory / "pytorch_model.bin").write_bytes(b"x")
    (directory / ".gitattributes").write_text("x")
    (directory / "original").mkdir()
    (directory / "original" / "consolidated.safetensors").write_bytes(b"x")
    model = make_from_text(store, "mine", f"FROM {directory}\nSYSTEM hi")
    shards = {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    found = {layer.name for layer in model.manifest.of(media.FILE)}
    assert found == (FILES - {"model.safetensors"}) | shards | {"model.safetensors.index.json"}
    assert store.contents(model).system == "hi"
    assert model.config.file_type == "F16"


@pytest.mark.parametrize("asked", ["q8_0", "Q4_K_M", "f16"])
def test_quantized_directory_becomes_a_gguf_file_and_nothing_else_stays(
    store: ModelStore, directory: Path, asked: str
) -> None:
    make(store, spec(path=directory, quantize=asked))
    model = made(store)
    (layer,) = model.manifest.of(media.MODEL)
    assert store.blobs.path(layer.digest).read_bytes()[:4] == b"GGUF"
    assert (model.config.model_format, model.config.file_type) == ("gguf", asked.upper())
    assert model.manifest.of(media.INDEX, media.FILE) == ()
    assert set(store.blobs.digests()) == {part.digest for part in model.manifest.parts}
    assert temporary(store) == []


def test_directory_that_is_what_is_asked_for_stays_what_it_is(store: ModelStore, directory: Path) -> None:
    make(store, spec(path=directory, quantize="bf16"))
    assert made(store).manifest.of(media.INDEX)


def test_model_of_files_is_inherited_with_them_and_quantized_later(store: ModelStore, directory: Path) -> None:
    parent = make_from_text(store, "parent", f"FROM {directory}\nSYSTEM hi")
    child = make_from_text(store, "child", "FROM parent\nPARAMETER top_k 3")
    assert child.source == parent.source
    assert {layer.from_ for layer in child.manifest.of(media.INDEX, media.FILE)} == {"parent:latest"}
    make(store, spec("small", from_model=parent.name, quantize="q8_0"))
    small = made(store, "small")
    assert (small.config.model_format, small.config.file_type) == ("gguf", "Q8_0")
    assert store.contents(small).system == "hi"


def test_copies_share_the_files_and_the_last_to_go_takes_them_along(store: ModelStore, directory: Path) -> None:
    model = make_from_text(store, "one", f"FROM {directory}")
    store.copy(model.name, names.parse("two"))
    store.delete(model.name)
    assert made(store, "two").source == model.source
    assert store.variants(str(model.source))
    assert all(store.blobs.has(part.digest) for part in model.manifest.parts)
    store.delete(names.parse("two"))
    assert everything(store) == set()


def test_pruning_keeps_the_files_of_a_model(store: ModelStore, directory: Path) -> None:
    model = make_from_text(store, "one", f"FROM {directory}")
    store.prune(now=2e10)
    assert all(store.blobs.has(part.digest) for part in model.manifest.parts)
    assert store.variants(str(model.source))


def test_directories_of_a_killed_daemon_go_at_the_next_start(store: ModelStore) -> None:
    left = store.variants_root / ".tmp-999999999-files-x"
    left.mkdir(parents=True)
    (left / "config.json").symlink_to(store.root)
    store.tidy()
    assert not left.exists()
    assert store.root.exists()


# what goes wrong


def test_file_that_vanished_is_told_by_its_name(store: ModelStore, directory: Path) -> None:
    model = make_from_text(store, "one", f"FROM {directory}")
    layer = next(layer for layer in model.manifest.of(media.FILE) if layer.name == "tokenizer.json")
    store.blobs.remove(layer.digest)
    shutil.rmtree(store.variant_root(str(model.source)))
    with pytest.raises(StoreError, match=r"tokenizer\.json of the checkpoint .* pull or create its model again"):
        run_ensure(store, str(model.source))


def run_ensure(store: ModelStore, digest: str) -> None:
    import asyncio

    asyncio.run(ensure_variant(store, digest, lambda progress: None))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", b"{", "config.json: is no JSON"),
        ("config.json", b'{"model_type": "rwkv"}', "model_type is 'rwkv'"),
        ("model.safetensors", b"12345678", "model.safetensors"),
        ("tokenizer.json", b"[]", "tokenizer.json"),
    ],
)
def test_damaged_file_is_refused_by_the_name_that_the_client_knows_and_nothing_stays(
    store: ModelStore, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    directory = write_tiny_directory(tmp_path / "tiny")
    (directory / name).write_bytes(content)
    error = refusal(store, spec(path=directory))
    assert isinstance(error, BadRequest | ExportFailed)
    assert sentence in str(error)
    assert ".tmp" not in str(error) and str(store.root) not in str(error)
    assert everything(store) == set()


def test_damaged_upload_is_refused_and_stays_for_another_try(store: ModelStore, tmp_path: Path) -> None:
    directory = write_tiny_directory(tmp_path / "tiny")
    (directory / "model.safetensors").write_bytes(b"12345678")
    files = uploads(store, directory)
    before = everything(store)
    error = refusal(store, spec(files=files))
    assert "model.safetensors" in str(error) and str(store.root) not in str(error)
    assert everything(store) == before


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["model.bin", "config.json"], "model.bin holds weights in a form that is not read"),
        (["config.json", "tokenizer.json"], "there is no *.safetensors, *.gguf or *.onnx"),
        (["../model.safetensors", "config.json"], "file path must be relative"),
        (["a//model.safetensors", "config.json"], "is no name for a checkpoint's file"),
        (["bad name.safetensors", "config.json"], "bad name.safetensors"),
    ],
)
def test_unfit_uploads_are_refused(store: ModelStore, directory: Path, files: list[str], sentence: str) -> None:
    digests = {name: store.blobs.put((directory / "config.json").read_bytes()) for name in files}
    error = refusal(store, spec(files=digests))
    assert isinstance(error, BadRequest)
    assert sentence in str(error)


def test_directory_without_a_checkpoint_is_refused(store: ModelStore, tmp_path: Path) -> None:
    assert "there is no *.safetensors" in str(refusal(store, spec(path=tmp_path)))


def test_index_that_leads_out_of_its_directory_is_refused(store: ModelStore) -> None:
    digest = store.blobs.put(b"{}")
    files = {"../../evil": {"digest": digest, "size": 2}}
    index = store.blobs.put(json.dumps({"format": "safetensors", "files": files}).encode())
    with pytest.raises(StoreError, match="evil"):
        run_ensure(store, index)


# adapters


@pytest.fixture(scope="session")
def peft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of safetensors."""
    pairs = {"blk.0.attn_q.weight": random_pair(64, 64), "blk.1.ffn_down.weight": random_pair(64, 128)}
    return write_peft_adapter(tmp_path_factory.mktemp("adapter") / "peft", pairs)


def test_adapter_is_merged_into_a_directory(store: ModelStore, directory: Path, peft: Path) -> None:
    model = make_from_text(store, "merged", f"FROM {directory}\nADAPTER {peft}\nSYSTEM hi")
    (layer,) = model.manifest.of(media.MODEL)
    assert store.blobs.path(layer.digest).read_bytes()[:4] == b"GGUF"
    assert model.manifest.of(media.INDEX, media.FILE, media.ADAPTER) == ()
    assert (model.config.model_format, model.config.file_type) == ("gguf", "BF16")
    assert store.variants(layer.digest)
    assert set(store.blobs.digests()) == {part.digest for part in model.manifest.parts}
    assert temporary(store) == []


def test_uploaded_adapter_is_merged_into_a_model_and_quantized(store: ModelStore, directory: Path, peft: Path) -> None:
    parent = make_from_text(store, "parent", f"FROM {directory}\nSYSTEM hi")
    adapters = uploads(store, peft)
    steps = make(store, spec("child", from_model=parent.name, adapters=adapters, quantize="q8_0"))
    child = made(store, "child")
    merging = [step for step in steps if step.status.startswith("merging adapter")]
    assert merging[-1].completed == merging[-1].total > 0
    assert (child.config.file_type, store.contents(child).system) == ("Q8_0", "hi")
    assert child.source != parent.source


def test_gguf_adapter_is_merged_into_a_quantized_file(store: ModelStore, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "base.gguf")
    adapter = write_gguf_adapter(tmp_path / "adapter.gguf", {"blk.0.attn_q.weight": random_pair(64, 64)})
    model = make_from_text(store, "merged", f"FROM {source}\nADAPTER {adapter}")
    assert model.config.file_type == "Q4_1"
    source_info = store.source_info(str(model.source))
    assert source_info is not None
    kinds = {tensor.name: tensor.type for tensor in source_info.tensors}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.0.attn_k.weight"]) == ("Q8_0", "Q4_1")
    assert set(store.blobs.digests()) == {part.digest for part in model.manifest.parts}


def test_adapter_of_another_model_is_refused_and_nothing_stays(
    store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    adapter = write_peft_adapter(tmp_path / "peft", {"blk.7.attn_q.weight": random_pair(64, 64)})
    error = refusal(store, spec(path=directory, adapter_paths=(adapter,)))
    assert isinstance(error, BadRequest)
    assert "blk.7.attn_q.weight, which the checkpoint does not have" in str(error)
    assert ".tmp" not in str(error)
    assert everything(store) == set()


# GGUF files in parts


def test_parts_of_a_gguf_model_are_taken_together_and_quantized_into_one(store: ModelStore, tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf", matrix_type="F16", embedding_type="F16")
    parts = write_parts(whole, tmp_path / "parts")
    make(store, spec("parts", files=uploads(store, parts)))
    model = made(store, "parts")
    assert len(model.manifest.of(media.FILE)) == 3
    assert (model.config.model_format, model.config.file_type) == ("gguf", "F16")
    make(store, spec("small", from_model=model.name, quantize="q8_0"))
    assert len(made(store, "small").manifest.of(media.MODEL)) == 1


def test_files_of_two_models_are_refused(store: ModelStore, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_tiny_gguf(tmp_path / f"{seed}.gguf", seed=seed)
    error = refusal(store, spec(path=tmp_path))
    assert isinstance(error, BadRequest)
    assert "there must be all parts of one model, and no other file" in str(error)
    assert everything(store) == set()


# a converter that dies


def test_killed_converter_leaves_nothing_of_a_directory(
    store: ModelStore, directory: Path, make_converter: Callable[[str], str]
) -> None:
    about = {"architecture": "llama", "format": "safetensors", "file_type": "BF16", "parameter_count": 1,
             "metadata": {}, "tensors": []}  # fmt: skip
    program = make_converter(
        f"if arguments[2] == 'inspect':\n    print({json.dumps(json.dumps(about))})\nelse:\n"
        "    assert (Path(arguments[3]) / 'config.json').is_file()\n    unfinished()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    error = refusal(store, spec(path=directory), python=program)
    assert "killed, most likely for lack of memory" in str(error)
    assert everything(store) == set()
    assert list(store.variants_root.glob(".*")) == []
