from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hearthd.engine.frames import Done, Generate, Load, SamplingParams
from hearthd.memory import rss_bytes
from hearthd.scheduler.runner import ProcessRunner
from hearthd.store.needs import needs
from hearthd.store.variant import ENCODER, Binding, VariantInfo, read_variant
from tests.variant_info import variant_info

TOLERANCE = 0.1
CODE_IN_USE_BYTES = 16 << 20  # pages of libraries that came back after they were given up: more on a busy machine
PATIENCE_S = 550
ANSWER_TOKENS = 24
Measured = tuple[int, int]  # bytes loaded, bytes full


def info_of(directory: Path) -> VariantInfo:
    info = read_variant(directory)
    assert info is not None
    return info


async def text_of(runner: ProcessRunner, num_tokens: int, seed: int) -> str:
    """Words of about so many tokens, not more."""
    words = [f"w{number}" for number in Random(seed).choices(range(1000), k=num_tokens)]
    fitting, most = 0, len(words)
    while most - fitting > 1:
        middle = (fitting + most) // 2
        num_found = len(await runner.tokenize(" ".join(words[:middle])))
        fitting, most = (middle, most) if num_found <= num_tokens else (fitting, middle)
    return " ".join(words[:fitting])


async def fill(runner: ProcessRunner, load: Load, seed: int) -> None:
    prompt = await text_of(runner, load.num_ctx - 2 * ANSWER_TOKENS, seed)
    request = Generate(0, prompt, num_predict=ANSWER_TOKENS, sampling=SamplingParams(temperature=0.0), truncate=False)
    async for frame in runner.generate(request):
        assert not isinstance(frame, Done) or frame.prompt_count > 0.85 * load.num_ctx


async def measured(load: Load) -> Measured:
    runner = await ProcessRunner.start(load)
    try:
        held_bytes = runner.loaded.resident_bytes
        await runner.trim(2)  # pages that files can give again are no need
        loaded_bytes = rss_bytes(runner.pid)
        assert held_bytes == pytest.approx(loaded_bytes, rel=2 * TOLERANCE, abs=CODE_IN_USE_BYTES)
        await asyncio.gather(*(fill(runner, load, seed) for seed in range(load.num_slots)))
        return loaded_bytes, rss_bytes(runner.pid)
    finally:
        await runner.close()


def measure(directory: Path, **options: Any) -> tuple[Measured, Measured]:
    """Real and foreseen."""
    load = Load(str(directory), num_batch=512, **options)
    needed = needs(info_of(directory), num_batch=512, **options)
    real = asyncio.run(asyncio.wait_for(measured(load), PATIENCE_S))
    print(f"{options}: {[size >> 20 for size in real]} MiB; {asdict(needed)}")
    return real, (needed.loaded_bytes, needed.total_bytes)


@pytest.mark.parametrize(
    ("num_ctx", "num_slots", "kv_type"),
    [
        (1024, 1, ""),
        (512, 4, ""),
        (1024, 1, "q8_0"),
        pytest.param(2048, 1, "", marks=pytest.mark.slow),
        pytest.param(2048, 4, "", marks=pytest.mark.slow),
        pytest.param(2048, 4, "q8_0", marks=pytest.mark.slow),
        pytest.param(8192, 1, "", marks=pytest.mark.slow),
        pytest.param(8192, 1, "q8_0", marks=pytest.mark.slow),
        pytest.param(8192, 4, "", marks=pytest.mark.slow),
    ],
)
def test_real_model_takes_what_was_foreseen_loaded_and_full(
    smollm2_variant: Path, num_ctx: int, num_slots: int, kv_type: str
) -> None:
    real, foreseen = measure(smollm2_variant, num_ctx=num_ctx, num_slots=num_slots, kv_type=kv_type)
    assert foreseen == pytest.approx(real, rel=TOLERANCE)


def test_model_of_next_to_nothing_takes_what_a_runner_takes(tiny_variant: Path) -> None:
    real, foreseen = measure(tiny_variant, num_ctx=1024, num_slots=2)
    assert foreseen == pytest.approx(real, rel=2 * TOLERANCE)  # all of it is libraries, whose size differs


def test_keys_and_values_are_counted_for_every_slot_in_the_type_that_the_variant_serves() -> None:
    info = variant_info(num_layers=2, num_kv_heads=3, head_dim=4)
    per_token = 2 * 2 * 3 * 4
    assert needs(info, num_ctx=10, num_slots=5).kv_bytes == 4 * 50 * per_token
    assert needs(info, num_ctx=10, num_slots=5, kv_type="q8_0").kv_bytes == 4 * 50 * per_token
    quantized = variant_info(
        num_layers=2, num_kv_heads=3, head_dim=4, kv_graphs={"q8_0": "q.onnx"}, files={"q.onnx": 1}
    )
    assert needs(quantized, num_ctx=10, num_slots=5, kv_type="q8_0").kv_bytes == 50 * per_token


def test_vocabulary_alone_needs_no_weights() -> None:
    info = variant_info(weight_bytes=1 << 30, files={"tokenizer.json": 1 << 20})
    alone, whole = needs(info, num_ctx=8, vocab_only=True), needs(info, num_ctx=8)
    assert alone.runner_bytes == whole.runner_bytes
    assert alone.total_bytes < 100 << 20 < 1 << 30 < whole.total_bytes


def test_pinned_weights_need_the_embedding_as_well() -> None:
    info = variant_info(vocab_size=1000, hidden_size=320)
    plain, pinned = needs(info, num_ctx=8), needs(info, num_ctx=8, pinned=True)
    assert pinned.total_bytes - plain.total_bytes > 1000 * 320


def encoder_info(**fields: Any) -> VariantInfo:
    facts = {"kind": ENCODER, "vocab_size": 30522, "hidden_size": 384, "num_heads": 12, "weight_bytes": 25 << 20}
    return variant_info(**facts | fields)


def test_an_encoder_needs_no_keys_and_values_but_room_for_its_longest_text() -> None:
    short, long = (needs(encoder_info(), num_ctx=num_ctx, num_slots=4) for num_ctx in (512, 8192))
    assert (short.kv_bytes, short.table_bytes, short.loaded_bytes) == (0, 0, long.loaded_bytes)
    assert 16 < long.work_bytes / (8192 * 384 * 4) < 64


def test_scores_of_an_encoder_are_a_square_only_where_its_graph_was_not_made_here() -> None:
    own, local, foreign = (
        needs(encoder_info(**fields), num_ctx=8192).work_bytes
        for fields in ({}, {"window": 128}, {"binding": Binding(inputs={}, output="")})
    )
    square_bytes = 12 * 8192 * 8192 * 4
    assert own < local < square_bytes / 4 < square_bytes < foreign


def test_an_encoders_table_of_tokens_stays_in_its_file_unless_it_is_pinned() -> None:
    table_bytes = 30522 * 384
    plain, pinned = (needs(encoder_info(), num_ctx=256, pinned=pinned) for pinned in (False, True))
    assert pinned.weight_bytes - plain.weight_bytes > table_bytes
    assert plain.weight_bytes < 20 << 20
