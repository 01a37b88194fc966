"""A device with room for one and a half of three models: 500 requests in turns, then a program that takes the rest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.box import box
from tests.e2e.daemon import eventually, running
from tests.soak.crowding import (
    MIB,
    Wanted,
    ask_plainly,
    base_bytes,
    evictions,
    hog_in,
    largest_bytes,
    learn,
    take_turns,
)
from tests.soak.retyped import retyped

pytestmark = pytest.mark.soak

NUM_REQUESTS = int(os.environ.get("HEARTH_SOAK_TURNS", "500"))
NUM_CLIENTS = 2
SETTINGS = {"HEARTH_CONTEXT_LENGTH": "2048"}
PROMPTS = ["Once upon a time", "The capital of France is", "def fibonacci(n):", "In the beginning", "Water boils at"]
NUM_PREDICT = 16


def prepare(folder: Path, starter: Path) -> tuple[list[Wanted], int, int]:
    """A store of three models of different sizes; what they answer where there is room; bytes of models and base."""
    with running(folder, **SETTINGS) as daemon:
        daemon.create("q4_1", starter)
        for block_type in ("Q8_0", "Q4_0"):
            path = retyped(starter, folder / f"{block_type}.gguf", block_type)
            daemon.create(block_type.lower(), path)
            path.unlink()
        wanted = learn(daemon, ["q4_1", "q8_0", "q4_0"], PROMPTS, NUM_PREDICT)
        return wanted, largest_bytes(daemon) * 3 // 2, base_bytes(daemon)


def test_three_models_in_room_for_one_and_a_half(
    tmp_path: Path, smollm2_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, models_bytes, rest_bytes = prepare(tmp_path, smollm2_gguf)
    (tmp_path / "daemon.log").unlink()
    with (
        box(models_bytes + rest_bytes) as small,
        running(tmp_path, wrap=small.wrap(), **SETTINGS, **small.settings(models_bytes)) as daemon,
    ):
        wrong = asyncio.run(take_turns(daemon, wanted, NUM_REQUESTS, NUM_CLIENTS))
        num_evictions = evictions(daemon.log)
        with capsys.disabled():
            print(f"\n{small.kind} of {small.limit_bytes / MIB:.0f} MiB: {NUM_REQUESTS} requests to 3 models,")
            print(f"  {len(wrong)} not answered rightly, {num_evictions} evictions, {small.num_kills()} OOM kills")
        assert wrong == []
        assert num_evictions > 0
        assert small.num_kills() == 0
        if not small.shared:
            pytest.skip("no cgroup with a memory limit can be made here, so no other program can take the rest")

        (model,) = (loaded["name"] for loaded in daemon.loaded())
        with hog_in(small) as hog:
            left = hog.grow_until(lambda: not daemon.loaded(), small)
            with capsys.disabled():
                print(f"  hog: {model} left when it held {hog.held_mib} MiB: {left}")
            assert left, daemon.log
            hog.grow_until(lambda: False, small)
            refusal = ask_plainly(daemon, wanted[0].model, wanted[0].prompt, NUM_PREDICT)
            with capsys.disabled():
                print(f"  at {hog.held_mib} MiB: {refusal}")
            assert "requires more system memory" in refusal
        assert small.num_kills() == 0
        for want in wanted:
            eventually(lambda want=want: ask_plainly(daemon, want.model, want.prompt, NUM_PREDICT) == want.text, "back")  # type: ignore[misc]
        assert "Traceback" not in daemon.log
