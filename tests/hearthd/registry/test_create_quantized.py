from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from hearthd.errors import ExportFailed
from hearthd.registry.create import create
from hearthd.store import names
from hearthd.store.store import ModelStore, StoredModel
from tests.hearthd.registry.making import everything, make, make_from_text, refusal, spec, upload
from tests.tiny import write_tiny_gguf

MakeConverter = Callable[[str], str]


@pytest.fixture(scope="session")
def float_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose matrices are F16."""
    path = tmp_path_factory.mktemp("floats") / "floats.gguf"
    return write_tiny_gguf(path, matrix_type="F16", embedding_type="F16")


def check_quantized(store: ModelStore, model: StoredModel, file_type: str) -> None:
    """The model is of that type, can be run, and nothing else is in the store."""
    assert model.source is not None
    source = store.source_info(model.source)
    assert source is not None
    assert (source.file_type, model.config.file_type) == (file_type, file_type)
    assert len(store.variants(model.source)) == 1
    assert [path for path in everything(store) if ".tmp" in path] == []


@pytest.mark.parametrize("asked", ["q8_0", "Q4_K_M"])
def test_file_of_this_machine_is_quantized_without_being_copied(
    store: ModelStore, float_gguf: Path, asked: str
) -> None:
    steps = make(store, spec(path=float_gguf, quantize=asked))
    want = asked.upper()
    seen = list(dict.fromkeys(step.status for step in steps))
    quantizing = [step for step in steps if step.status == f"quantizing F16 model to {want}"]
    assert quantizing[-1].completed == quantizing[-1].total > 0
    told = ["parsing GGUF", f"quantizing F16 model to {want}", "verifying conversion", "writing manifest", "success"]
    assert [status for status in seen if status in told] == told
    model = store.resolve(names.parse("new"))
    check_quantized(store, model, want)
    assert set(store.blobs.digests()) == {part.digest for part in model.manifest.parts}


def test_upload_is_quantized_and_stays_for_other_models(store: ModelStore, float_gguf: Path) -> None:
    digest = upload(store, float_gguf)
    steps = make(store, spec(files={"floats.gguf": digest}, quantize="q4_0"))
    assert {step.digest for step in steps if step.status.startswith("quantizing")} == {digest}
    check_quantized(store, store.resolve(names.parse("new")), "Q4_0")
    assert store.blobs.has(digest)


def test_model_is_quantized_with_all_that_it_has(store: ModelStore, float_gguf: Path) -> None:
    parent = make_from_text(store, "floats", f"FROM {float_gguf}\nSYSTEM old\nPARAMETER top_k 2\nRENDERER r")
    make(store, spec("small", from_model=parent.name, quantize="Q8_0", parameters={"top_p": 0.5}))
    model = store.resolve(names.parse("small"))
    check_quantized(store, model, "Q8_0")
    contents = store.contents(model)
    assert (contents.system, contents.params["top_k"], contents.params["top_p"]) == ("old", 2, 0.5)
    assert contents.template == store.contents(parent).template
    assert model.config.renderer == "r"
    assert store.resolve(parent.name).source != model.source


def test_model_quantized_under_its_own_name_leaves_no_floats(store: ModelStore, float_gguf: Path) -> None:
    parent = make_from_text(store, "floats", f"FROM {float_gguf}")
    make(store, spec("floats", from_model=parent.name, quantize="q8_0"))
    model = store.resolve(parent.name)
    check_quantized(store, model, "Q8_0")
    assert set(store.blobs.digests()) == {part.digest for part in model.manifest.parts}


def test_type_that_it_has_already_changes_nothing(store: ModelStore, float_gguf: Path) -> None:
    steps = make(store, spec(path=float_gguf, quantize="f16"))
    assert not [step for step in steps if step.status.startswith("quantizing")]
    assert store.resolve(names.parse("new")).config.file_type == "F16"


def test_quantized_source_is_refused(store: ModelStore, tiny_gguf: Path) -> None:
    error = refusal(store, spec(path=tiny_gguf, quantize="Q8_0"))
    assert str(error) == "quantization is only supported for F16, BF16 and F32 models"
    assert error.status == 400
    assert everything(store) == set()


def test_unknown_type_is_refused_with_those_that_there_are(store: ModelStore, float_gguf: Path) -> None:
    error = refusal(store, spec(path=float_gguf, quantize="q9"))
    assert str(error).startswith("unsupported quantization type Q9 - supported types are F32, F16")
    assert error.status == 400
    assert everything(store) == set()


# a converter whose inspection works and whose quantization is to be written
INSPECTS = """
if arguments[2] == "inspect":
    print(json.dumps(dict(architecture="llama", file_type="F16", parameter_count=1, metadata={}, tensors=[])))
    sys.exit(0)
say(stage="quantizing", done=1, total=2)
"""
HALF = """
Path(option("--out")).parent.joinpath(f".tmp-{os.getpid()}-x").write_bytes(b"half")
"""


def test_killed_quantization_leaves_nothing(store: ModelStore, float_gguf: Path, make_converter: MakeConverter) -> None:
    program = make_converter(INSPECTS + HALF + "os.kill(os.getpid(), signal.SIGKILL)")
    error = refusal(store, spec(path=float_gguf, quantize="q8_0", system="x"), python=program)
    assert isinstance(error, ExportFailed)
    assert "most likely for lack of memory" in str(error)
    assert everything(store) == set()


def test_leaving_in_mid_quantization_leaves_nothing(
    store: ModelStore, float_gguf: Path, make_converter: MakeConverter
) -> None:
    program = make_converter(INSPECTS + HALF + "time.sleep(600)")

    async def leave() -> None:
        async with aclosing(create(store, spec(path=float_gguf, quantize="q8_0"), python=program)) as steps:
            async for step in steps:
                if step.status.startswith("quantizing"):
                    break

    asyncio.run(leave())
    assert everything(store) == set()


def test_result_of_another_type_is_not_taken(
    store: ModelStore, float_gguf: Path, make_converter: MakeConverter
) -> None:
    finish = 'Path(option("--out")).write_bytes(b"GGUF"); say(result=dict(num_bytes=4))'
    error = refusal(store, spec(path=float_gguf, quantize="q8_0"), python=make_converter(INSPECTS + finish))
    assert "was to become Q8_0, but the result says F16" in str(error)
    assert everything(store) == set()
