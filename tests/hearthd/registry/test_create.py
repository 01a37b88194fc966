from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from hearthd.errors import BadRequest, ExportFailed, HearthError, InvalidDigest, StoreError
from hearthd.modelfile import parse
from hearthd.registry.create import create
from hearthd.registry.progress import Progress
from hearthd.registry.spec import CreateSpec, spec_from_modelfile
from hearthd.store import names
from hearthd.store.contents import Message
from hearthd.store.store import ModelStore, StoredModel, open_store

MakeConverter = Callable[[str], str]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return open_store(tmp_path / "models")


def make(store: ModelStore, spec: CreateSpec, **settings: Any) -> list[Progress]:
    async def collect() -> list[Progress]:
        return [progress async for progress in create(store, spec, **settings)]

    return asyncio.run(collect())


def make_from_text(store: ModelStore, name: str, text: str) -> StoredModel:
    steps = make(store, spec_from_modelfile(names.parse(name), parse(text)))
    rest = [step.status for step in steps if step.status not in ("removing unused layers",)]
    assert rest[-2:] == ["writing manifest", "success"]
    return store.resolve(names.parse(name))


def refusal(store: ModelStore, spec: CreateSpec, **settings: Any) -> HearthError:
    with pytest.raises(HearthError) as caught:
        make(store, spec, **settings)
    return caught.value


def spec(**fields: Any) -> CreateSpec:
    return CreateSpec(name=names.parse("new"), **fields)


def upload(store: ModelStore, path: Path) -> str:
    return store.blobs.put(path.read_bytes())


def everything(store: ModelStore) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


# from a file of this machine


def test_model_from_a_path_is_imported_converted_and_described(store: ModelStore, tiny_gguf: Path) -> None:
    steps = make(store, spec(path=tiny_gguf))
    digest = "sha256:" + hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    size = tiny_gguf.stat().st_size
    statuses = [step.status for step in steps]
    assert statuses[:3] == ["parsing GGUF", "using autodetected template chatml", f"copying {tiny_gguf.name}"]
    assert Progress(f"copying {tiny_gguf.name}", total=size, completed=size) in steps
    conversion = [step for step in steps if step.status.startswith("converting to ONNX (")]
    assert {step.digest for step in conversion} == {digest}
    told = [status for status in statuses if "layer" in status or status == "writing manifest"]
    model = store.resolve(names.parse("new"))
    assert told == [*(f"creating new layer {layer.digest}" for layer in model.manifest.layers), "writing manifest"]
    assert statuses[-1] == "success"
    assert model.source == digest
    assert len(store.variants(digest)) == 1
    assert model.config.model_format == "gguf"
    assert model.config.model_family == "llama"
    assert model.config.model_families == ("llama",)
    assert model.config.capabilities[0] == "completion"
    assert model.config.context_length > 0
    source = store.source_info(digest)
    assert source is not None
    assert model.config.file_type == source.file_type


def test_second_model_from_the_same_file_converts_nothing(store: ModelStore, tiny_gguf: Path) -> None:
    make(store, spec(path=tiny_gguf))
    steps = make(store, CreateSpec(name=names.parse("second"), path=tiny_gguf))
    assert not [step for step in steps if step.status.startswith("converting")]
    assert [step for step in steps if step.status.startswith("using existing layer")]


@pytest.mark.parametrize("length", [0, 3, 100, 5000, -1])
def test_truncated_file_is_refused_by_its_own_name_and_leaves_nothing(
    store: ModelStore, tiny_gguf: Path, tmp_path: Path, length: int
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:length])
    error = refusal(store, spec(path=cut))
    assert isinstance(error, BadRequest)
    assert str(cut) in str(error)
    assert "Traceback" not in str(error)
    assert everything(store) == set()


def test_file_that_cannot_be_read_is_refused(store: ModelStore, tmp_path: Path) -> None:
    assert "absent.gguf" in str(refusal(store, spec(path=tmp_path / "absent.gguf")))
    assert everything(store) == set()


def test_failed_conversion_leaves_nothing(store: ModelStore, tiny_gguf: Path, make_converter: MakeConverter) -> None:
    error = refusal(store, spec(path=tiny_gguf, system="x"), python=make_converter(INSPECTS + "unfinished(); die()"))
    assert isinstance(error, ExportFailed)
    assert "most likely for lack of memory" in str(error)
    assert everything(store) == set()


# a converter whose inspection works and whose conversion is to be written
INSPECTS = """
if arguments[2] == "inspect":
    print(json.dumps(dict(architecture="llama", file_type="Q4_1", parameter_count=1, metadata={}, tensors=[])))
    sys.exit(0)
def die(): os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leaving_in_mid_conversion_leaves_nothing(
    store: ModelStore, tiny_gguf: Path, make_converter: MakeConverter
) -> None:
    program = make_converter(INSPECTS + 'unfinished(); say(stage="reading"); time.sleep(600)')

    async def leave() -> None:
        async with aclosing(create(store, spec(path=tiny_gguf), python=program)) as steps:
            async for step in steps:
                if step.status.startswith("converting"):
                    break

    asyncio.run(leave())
    assert everything(store) == set()


def test_cancelled_copy_leaves_nothing(store: ModelStore, tmp_path: Path, make_converter: MakeConverter) -> None:
    large = tmp_path / "large.gguf"
    with large.open("wb") as file:
        file.truncate(200 << 20)  # sparse
    program = make_converter(INSPECTS)

    async def leave() -> None:
        async with aclosing(create(store, spec(path=large), python=program)) as steps:
            await anext(steps)

    asyncio.run(leave())
    assert everything(store) == set()


# from an upload


def test_model_from_an_uploaded_blob_is_made(store: ModelStore, tiny_gguf: Path) -> None:
    digest = upload(store, tiny_gguf)
    steps = make(store, spec(files={"tiny.gguf": digest}))
    assert f"using existing layer {digest}" in [step.status for step in steps]
    assert store.resolve(names.parse("new")).source == digest


def test_modelfile_may_name_an_uploaded_blob(store: ModelStore, tiny_gguf: Path) -> None:
    digest = upload(store, tiny_gguf)
    assert make_from_text(store, "m", f"FROM @{digest}").source == digest


def test_uploaded_blob_survives_a_failed_create(store: ModelStore, tiny_gguf: Path) -> None:
    digest = store.blobs.put(tiny_gguf.read_bytes()[:5000])
    error = refusal(store, spec(files={"cut.gguf": digest}, system="x"))
    assert isinstance(error, BadRequest)
    assert "cut.gguf" in str(error)
    assert str(store.root) not in str(error)
    assert store.blobs.digests() == [digest]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"/etc/x.gguf": "sha256:" + "0" * 64}, "file path must be relative"),
        ({"a/../../x.gguf": "sha256:" + "0" * 64}, "file path must be relative"),
        ({"x.gguf": ""}, "invalid digest format"),
        ({"x.gguf": "sha256:" + "0" * 64}, "upload it to /api/blobs/sha256:000"),
        ({"x.safetensors": "sha256:" + "0" * 64}, "safetensors and split models come later"),
        ({"x.gguf": "sha256:" + "0" * 64, "y.gguf": "sha256:" + "1" * 64}, "only a single GGUF file"),
        ({}, "neither 'from' or 'files' was specified"),
    ],
)
def test_unfit_files_are_refused(store: ModelStore, files: dict[str, str], sentence: str) -> None:
    error = refusal(store, spec(files=files))
    assert isinstance(error, BadRequest | InvalidDigest)
    assert sentence in str(error)


def test_upload_that_is_no_gguf_is_refused(store: ModelStore) -> None:
    error = refusal(store, spec(files={"x.bin": store.blobs.put(b"hello")}))
    assert str(error) == "unknown type: x.bin begins with b'hell', not with b'GGUF' as a GGUF file does"
    assert error.status == 400


# from another model


@pytest.fixture(scope="session")
def base_root(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the model `base`, made once."""
    store = open_store(tmp_path_factory.mktemp("base") / "models")
    make_from_text(
        store,
        "base",
        f"FROM {tiny_gguf}\nSYSTEM old\nTEMPLATE old\nLICENSE one\nMESSAGE user old\n"
        "PARAMETER top_k 1\nPARAMETER stop a\nPARAMETER stop b",
    )
    return store.root


@pytest.fixture
def base(store: ModelStore, base_root: Path) -> StoredModel:
    """The model `base`, in this test's store."""
    shutil.copytree(base_root, store.root, dirs_exist_ok=True)
    return store.resolve(names.parse("base"))


def test_bare_from_inherits_everything(store: ModelStore, base: StoredModel) -> None:
    model = make_from_text(store, "child", "FROM BASE")
    assert store.contents(model) == store.contents(base)
    assert model.manifest.layers[0].from_ == "base:latest"
    assert model.config == base.config


def test_each_layer_follows_its_own_rule_of_merging(store: ModelStore, base: StoredModel) -> None:
    model = make_from_text(
        store,
        "child",
        "FROM base\nSYSTEM new\nTEMPLATE {{ .Tools }}\nLICENSE two\nMESSAGE user new\nMESSAGE assistant yes\n"
        "PARAMETER top_p 0.5\nPARAMETER stop c",
    )
    contents = store.contents(model)
    assert contents.system == "new"
    assert contents.template == "{{ .Tools }}"
    assert contents.licenses == ("one", "two")
    assert contents.messages == (Message("user", "new"), Message("assistant", "yes"))
    assert contents.params == {"top_k": 1, "top_p": 0.5, "stop": ["c"]}
    assert "tools" in model.config.capabilities
    assert store.contents(base).system == "old"


def test_empty_text_drops_what_is_inherited_and_none_keeps_it(store: ModelStore, base: StoredModel) -> None:
    dropped = make_from_text(store, "child", 'FROM base\nSYSTEM ""\nTEMPLATE ""')
    assert (store.contents(dropped).system, store.contents(dropped).template) == ("", "")
    make(store, spec(from_model=base.name, system=None))
    assert store.contents(store.resolve(names.parse("new"))).system == "old"


def test_same_licence_is_kept_once(store: ModelStore, base: StoredModel) -> None:
    assert store.contents(make_from_text(store, "child", "FROM base\nLICENSE one")).licenses == ("one",)


def test_absent_parent_is_refused_naming_it(store: ModelStore) -> None:
    error = refusal(store, spec(from_model=names.parse("llama3")))
    assert isinstance(error, BadRequest)
    assert str(error) == "model 'llama3:latest' not found: pull it, or create it from a GGUF file first"


def test_replaced_model_leaves_no_garbage_unless_asked_to(store: ModelStore, base: StoredModel) -> None:
    first = make_from_text(store, "child", "FROM base\nSYSTEM first")
    second = make_from_text(store, "CHILD", "FROM child\nSYSTEM second")
    assert second.name == first.name
    used = {part.digest for model in (base, second) for part in model.manifest.parts}
    assert set(store.blobs.digests()) == used
    before = len(store.blobs.digests())
    child = names.parse("child")
    make(store, CreateSpec(name=child, from_model=child, system="third"), noprune=True)
    assert len(store.blobs.digests()) == before + 1


def test_model_may_be_made_from_itself(store: ModelStore, base: StoredModel) -> None:
    model = make_from_text(store, "base", "FROM base\nSYSTEM new")
    assert store.contents(model).system == "new"
    assert store.contents(model).template == "old"
    assert len(store.models()) == 1


# refusals


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "neither 'from' or 'files' was specified"),
    ],
)
def test_what_comes_later_is_refused_and_not_ignored(store: ModelStore, fields: dict[str, Any], sentence: str) -> None:
    assert sentence in str(refusal(store, spec(**fields)))


def test_read_only_store_refuses_before_it_changes(store: ModelStore, base: StoredModel) -> None:
    frozen = ModelStore(store.root, writable=False)
    before = everything(store)
    assert isinstance(refusal(frozen, spec(from_model=base.name, system="x")), StoreError)
    assert everything(store) == before
