from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from hearthd.errors import BadRequest, ExportFailed, InvalidDigest, StoreError
from hearthd.registry.create import create
from hearthd.registry.progress import Progress
from hearthd.registry.spec import CreateSpec
from hearthd.store import media, names
from hearthd.store.contents import Message
from hearthd.store.store import ModelStore, StoredModel
from tests.hearth_export.gguf_writer import Meta
from tests.hearthd.registry.making import everything, make, make_from_text, refusal, spec, upload
from tests.tiny import CHAT_TEMPLATE, write_tiny_gguf

MakeConverter = Callable[[str], str]


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
        ({"x.safetensors": "sha256:" + "0" * 64}, "of x.safetensors is not here"),
        ({"a\0b.gguf": "sha256:" + "0" * 64}, "is no name for a checkpoint's file"),
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
    assert str(error) == "model 'llama3:latest' not found: pull it, or create it from a checkpoint first"


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


def test_template_of_a_family_comes_with_its_stop_texts(store: ModelStore, tiny_gguf: Path) -> None:
    contents = store.contents(make_from_text(store, "m", f"FROM {tiny_gguf}"))
    assert "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>" in contents.template
    assert contents.params == {"stop": ["<|im_start|>", "<|im_end|>"]}


def test_users_own_template_and_stop_texts_win_over_the_familys(store: ModelStore, tiny_gguf: Path) -> None:
    text = f"FROM {tiny_gguf}\nTEMPLATE mine\nPARAMETER stop END\nPARAMETER top_k 3"
    contents = store.contents(make_from_text(store, "m", text))
    assert (contents.template, contents.params) == ("mine", {"stop": ["END"], "top_k": 3})


def test_template_that_offers_more_is_left_to_the_checkpoint(store: ModelStore, tmp_path: Path) -> None:
    extra: dict[str, Meta] = {"tokenizer.chat_template": "{% if tools %}{{ tools }}{% endif %}" + CHAT_TEMPLATE}
    model = make_from_text(store, "m", f"FROM {write_tiny_gguf(tmp_path / 'tools.gguf', extra=extra)}")
    assert (store.contents(model).template, store.contents(model).params) == ("", {})
    assert model.config.capabilities == ("completion", "tools")


def test_nothing_that_was_made_in_vain_stays(store: ModelStore, tiny_gguf: Path) -> None:
    model = make_from_text(store, "m", f"FROM {tiny_gguf}\nTEMPLATE mine\nLICENSE a\nLICENSE a")
    assert set(store.blobs.digests()) == {part.digest for part in model.manifest.parts}


def test_names_of_other_servers_code_and_requires_are_kept_inherited_and_replaced(
    store: ModelStore, base: StoredModel
) -> None:
    first = make_from_text(store, "first", "FROM base\nRENDERER r\nPARSER p\nREQUIRES 0.14.0").config
    second = make_from_text(store, "second", "FROM first\nPARSER q").config
    assert (first.renderer, first.parser, first.requires) == ("r", "p", "0.14.0")
    assert (second.renderer, second.parser, second.requires) == ("r", "q", "0.14.0")


def test_what_has_no_effect_is_said(store: ModelStore, base: StoredModel) -> None:
    seen = [
        step.status for step in make(store, spec(from_model=base.name, renderer="r", parameters={"low_vram": True}))
    ]
    assert "warning: parameter low_vram is deprecated" in seen
    assert "warning: renderer r is kept, and has no effect on this server" in seen


def test_info_replaces_what_the_checkpoint_says_and_is_inherited(store: ModelStore, base: StoredModel) -> None:
    make(store, spec("told", from_model=base.name, info={"model_type": "9B", "capabilities": ("completion", "vision")}))
    for text in ("FROM told", "FROM told\nSYSTEM x"):
        config = make_from_text(store, "heir", text).config
        assert (config.model_type, config.capabilities) == ("9B", ("completion", "vision"))
        assert config.model_family == base.config.model_family


def test_parameters_of_the_parent_that_are_damaged_are_an_error(store: ModelStore, base: StoredModel) -> None:
    (layer,) = base.manifest.of(media.PARAMS)
    store.blobs.path(layer.digest).write_bytes(b"{")
    error = refusal(store, spec(from_model=base.name, parameters={"top_k": 1}))
    assert "the parameters of the model that this one is made from are damaged" in str(error)


# refusals


def test_template_that_cannot_be_parsed_is_refused(store: ModelStore, base: StoredModel) -> None:
    error = refusal(store, spec(from_model=base.name, template="{{ .Prompt "))
    assert (error.status, str(error)) == (400, "template error: template: :1: unclosed action")


ABSENT = "sha256:" + "0" * 64


def test_unfit_adapters_are_refused(store: ModelStore, base: StoredModel, tmp_path: Path) -> None:
    text, gguf = store.blobs.put(b"text"), store.blobs.put(b"GGUF...")
    path = tmp_path / "adapter.bin"
    path.write_bytes(b"text")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"adapters": {"/a.gguf": gguf}}, "file path must be relative"),
        ({"adapters": {"a.gguf": "x"}}, "invalid digest format"),
        ({"adapters": {"a.gguf": ABSENT}}, "upload it to /api/blobs/sha256:000"),
        ({"adapters": {"a.gguf": gguf, "b.gguf": gguf}}, "only one adapter is currently supported"),
        ({"adapters": {"a.gguf": gguf}, "adapter_paths": (path,)}, "only one adapter is currently supported"),
        ({"adapters": {"a.safetensors": text}}, "supplied file was not in GGUF format"),
        ({"adapter_paths": (path,)}, "supplied file was not in GGUF format"),
        ({"adapter_paths": (tmp_path / "gone",)}, "gone cannot be read"),
        ({"adapter_paths": (tmp_path,)}, "the directory holds no adapter_config.json"),
        ({"adapters": {"a.gguf": gguf}}, "a.gguf: "),
    ]
    for fields, sentence in cases:
        error = refusal(store, spec(from_model=base.name, **fields))
        assert error.status == 400
        assert sentence in str(error), fields


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
