"""Keys and values as int8, through the real converter, ONNX Runtime and session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from hearthd.engine.kvform import KVForm
from hearthd.engine.kvscales import LONG_SCALES_FILE, SCALES_FILE, form_of, read_scales
from hearthd.engine.providers.provider import load_provider
from hearthd.engine.session import Session, open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import VARIANT_FILE, VariantInfo, read_variant

NUM_CTX = 256
PROSE = Path(__file__).parents[2] / "data" / "prose.txt"


@pytest.fixture(scope="module")
def measured(tiny_variant: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny variant with its scales."""
    directory = tmp_path_factory.mktemp("measured") / "variant"
    shutil.copytree(tiny_variant, directory)
    form(directory)
    return directory


@pytest.fixture
def variant(measured: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(measured, tmp_path / "variant")
    return tmp_path / "variant"


def info_of(directory: Path) -> VariantInfo:
    info = read_variant(directory)
    assert info is not None
    return info


def open_graph(path: Path) -> ort.InferenceSession:
    return load_provider("cpu", 1).open(path)


def never(path: Path) -> ort.InferenceSession:
    raise AssertionError(f"{path} was opened")


def form(directory: Path, kv_type: str = "q8_0", opener: Callable[[Path], ort.InferenceSession] = open_graph) -> KVForm:
    info = info_of(directory)
    return form_of(kv_type, directory, info, Tokenizer(directory / info.tokenizer, info).encode, opener)


def opened(directory: Path, kv_type: str, num_slots: int = 1) -> Session:
    info = info_of(directory)
    chosen = form(directory, kv_type)
    return open_session(directory, info, num_ctx=NUM_CTX, num_threads=2, num_slots=num_slots, form=chosen)


def ids(count: int, seed: int = 9) -> list[int]:
    return np.random.default_rng(seed).integers(3, 130, count).tolist()  # type: ignore[no-any-return]


def rows(session: Session, tokens: list[int], num_prompt: int) -> NDArray[np.float32]:
    """Logits behind a prompt and behind each token that follows it."""
    found = [session.evaluate(tokens[:num_prompt]).copy()]
    for past in range(num_prompt, len(tokens)):
        session.decode([tokens[past]], [past])
        found.append(session.logits[0].copy())
    return np.array(found)


def test_most_steps_choose_the_token_that_float_keys_and_values_choose(measured: Path) -> None:
    tokens = ids(200)
    exact, coarse = (rows(opened(measured, kv_type), tokens, 100) for kv_type in ("f32", "q8_0"))
    assert np.mean(exact.argmax(1) == coarse.argmax(1)) >= 0.9
    assert np.abs(exact - coarse).max() > 0  # they are indeed held in another way


def test_keys_and_values_take_a_quarter(measured: Path) -> None:
    exact, coarse = (opened(measured, kv_type) for kv_type in ("f32", "q8_0"))
    assert coarse.cache.values.dtype == np.int8
    assert 4 * coarse.cache.num_bytes == exact.cache.num_bytes
    info = info_of(measured)
    assert 4 * info.kv_bytes("q8_0") == info.kv_bytes("f32") == info.kv_bytes() == info.kv_bytes_per_token


def test_codes_tell_the_float_keys_and_values_to_half_a_step(measured: Path) -> None:
    exact, coarse = (opened(measured, kv_type) for kv_type in ("f32", "q8_0"))
    tokens = ids(64)
    exact.evaluate(tokens)
    coarse.evaluate(tokens)
    scales = read_scales(measured, info_of(measured))
    assert scales is not None
    floats, codes = (np.asarray(one.slot(0)[0, :, :, :64], np.float32) for one in (exact, coarse))
    steps = floats / scales[0, :, :, np.newaxis]  # the first layer's depend on no other's
    within = np.abs(steps) <= 127
    assert np.mean(within) > 0.99
    assert np.abs(steps - codes)[within].max() <= 0.501
    assert np.abs(codes[~within]).min(initial=127) >= 127  # what goes beyond stays at the end


def test_other_texts_are_seldom_clipped(smollm2_variant: Path, tmp_path: Path) -> None:
    directory = tmp_path / "variant"
    shutil.copytree(smollm2_variant, directory)
    info, session = info_of(directory), opened(directory, "q8_0")
    session.evaluate(Tokenizer(directory / info.tokenizer, info).encode(PROSE.read_text())[:NUM_CTX])
    codes = np.abs(session.slot(0)[:, :, :, :NUM_CTX].astype(np.int16))
    assert np.mean(codes >= 127) < 1e-3
    assert np.mean(codes) > 16  # nor are they so wide that most codes go unused


def test_sequences_side_by_side_are_as_they_are_alone(measured: Path) -> None:
    session, texts = opened(measured, "q8_0", num_slots=3), [ids(20, 1), ids(47, 2), ids(90, 3)]
    for slot, text in enumerate(texts):
        session.evaluate(text, slot=slot)
    session.decode([7, 8, 9], [len(text) for text in texts])
    together = session.logits.copy()
    for text, token, row in zip(texts, (7, 8, 9), together, strict=True):
        alone = rows(opened(measured, "q8_0"), [*text, token], len(text))[-1]
        np.testing.assert_allclose(row, alone, atol=0.02 * float(np.abs(alone).max()))


def test_a_full_window_is_shifted(measured: Path) -> None:
    session, fresh, tokens = opened(measured, "q8_0"), opened(measured, "q8_0"), ids(100)
    assert session.shifts
    session.evaluate(tokens)
    session.drop(0, 5, 40, 100)
    fresh.evaluate(tokens[:5] + tokens[45:])
    ours, theirs = (one.slot(0)[0, :, :, :60].astype(np.int16) for one in (session, fresh))
    assert np.abs(ours - theirs).max() <= 2  # of 127: rounded twice


def test_scales_are_found_once_and_used_again(variant: Path) -> None:
    (variant / SCALES_FILE).unlink()
    first = form(variant)
    again = form(variant, opener=never)
    assert {**first.inputs}.keys() == {**again.inputs}.keys()
    for name, array in first.inputs.items():
        np.testing.assert_array_equal(array, again.inputs[name])
        assert array.shape == (1, 2, 1, 16)


def test_both_channels_of_a_pair_have_one_scale(measured: Path) -> None:
    scales = read_scales(measured, info_of(measured))
    assert scales is not None
    np.testing.assert_array_equal(scales[:, 0, :, :8], scales[:, 0, :, 8:])


def cut(content: bytes) -> bytes:
    return content[:-1]


def flip(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def empty(content: bytes) -> bytes:
    return b""


def longer(content: bytes) -> bytes:
    return content + content


@pytest.mark.parametrize("damage", [cut, flip, empty, longer])
def test_damaged_scales_are_found_again(
    variant: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    whole = (variant / SCALES_FILE).read_bytes()
    (variant / SCALES_FILE).write_bytes(damage(whole))
    assert form(variant).name == "q8_0"
    assert "is damaged and made again" in caplog.text
    assert (variant / SCALES_FILE).read_bytes() == whole


def test_scales_that_cannot_be_kept_serve_all_the_same(variant: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (variant / SCALES_FILE).unlink()
    (variant / SCALES_FILE / "in the way").mkdir(parents=True)
    assert len(form(variant).inputs) == 4
    assert "are not kept" in caplog.text


def test_weights_that_give_no_finite_keys_are_told(variant: Path) -> None:
    (variant / SCALES_FILE).unlink()
    model = onnx.load(str(variant / "model.onnx"), load_external_data=False)
    (norm,) = (tensor for tensor in model.graph.initializer if tensor.name == "layer.0.attention_norm.weight")
    place = {entry.key: entry.value for entry in norm.external_data}
    with (variant / "model.onnx.data").open("r+b") as file:
        file.seek(int(place["offset"]))
        file.write(np.full(64, np.nan, np.float32).tobytes())
    with pytest.raises(ValueError, match="not finite: its weights are damaged"):
        form(variant)


def test_a_variant_without_such_a_graph_serves_floats_and_warns(
    variant: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(variant, kv_graphs={})
    chosen = form(variant, opener=never)
    assert (chosen.name, chosen.graph, chosen.dtype, {**chosen.inputs}) == ("f32", "model.onnx", "float32", {})
    assert "held as f32: this model has no graph for q8_0" in caplog.text
    assert info_of(variant).kv_bytes("q8_0") == info_of(variant).kv_bytes("f32")


def test_a_graph_that_is_no_file_of_the_variant_is_never_opened(variant: Path) -> None:
    rewrite(variant, kv_graphs={"q8_0": "../elsewhere/model.onnx"})
    assert form(variant, opener=never).graph == "model.onnx"


@pytest.mark.parametrize("kv_type", ["", "f32"])
def test_without_a_wish_or_with_that_of_floats_nothing_is_told(
    variant: Path, kv_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert form(variant, kv_type, never).dtype == "float32"
    assert caplog.text == ""


def rewrite(directory: Path, **fields: object) -> None:
    content = msgspec.json.decode((directory / VARIANT_FILE).read_bytes())
    (directory / VARIANT_FILE).write_bytes(msgspec.json.encode(content | fields))


def test_a_long_window_with_frequencies_of_its_own_has_scales_of_its_own(variant: Path) -> None:
    info = info_of(variant)
    rope = msgspec.structs.replace(
        info.ropes[0], long_inv_freq=info.ropes[0].inv_freq, long_attention_scale=3.0, short_context=128
    )
    info = msgspec.structs.replace(info, ropes=[rope])
    encode = Tokenizer(variant / info.tokenizer, info).encode
    short = form_of("q8_0", variant, info, encode, never, 128)
    long = form_of("q8_0", variant, info, encode, open_graph, 129)
    assert (variant / LONG_SCALES_FILE).stat().st_size == (variant / SCALES_FILE).stat().st_size
    again = form_of("q8_0", variant, info, encode, never, 2000)
    for name, scale in long.inputs.items():
        np.testing.assert_array_equal(again.inputs[name], scale)
    first = "past.0.key.scale"
    ratio = long.inputs[first].astype(np.float64) / short.inputs[first].astype(np.float64)
    np.testing.assert_allclose(ratio, np.full_like(ratio, 3), rtol=1e-5)
    np.testing.assert_array_equal(long.inputs["past.0.value.scale"], short.inputs["past.0.value.scale"])
