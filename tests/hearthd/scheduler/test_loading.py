from __future__ import annotations

import pytest
from msgspec import structs

from hearthd.engine.frames import Load
from hearthd.errors import LoadFailed
from hearthd.store.needs import needs
from hearthd.store.variant import ENCODER
from tests.hearthd.scheduler.stage import Stage, ToyRunner, run, stored, touch, variant

A, B = stored("a"), stored("b")


class MeasuredStage(Stage):
    """Its runners take `resident_bytes` to load, whatever was foreseen."""

    resident_bytes = 0

    async def _spawn(self, load: Load) -> ToyRunner:
        runner = await super()._spawn(load)
        runner.loaded = structs.replace(runner.loaded, resident_bytes=self.resident_bytes)
        return runner


def foreseen(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of errors, and of needs."""
    return [record.message for record in caplog.records if "foreseen" in record.message or "needed" in record.message]


def test_what_a_load_took_corrects_what_the_next_one_is_foreseen_to_need(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        stage = MeasuredStage()
        wanted = needs(stage.info, num_ctx=2048, num_batch=512)
        stage.resident_bytes = wanted.loaded_bytes + (100 << 20)
        scheduler = stage.scheduler()
        for model in (A, A, B):
            await touch(scheduler, model, keep_alive_ns=0)
        total, loaded = wanted.total_bytes >> 20, wanted.loaded_bytes >> 20
        assert foreseen(caplog) == [
            f"load a:latest: {total} MiB needed, num_ctx 2048",
            f"a:latest took {loaded + 100} MiB to load, {loaded} MiB was foreseen",
            f"load a:latest: {total + 100} MiB needed, num_ctx 2048",
            f"load b:latest: {total} MiB needed, num_ctx 2048",
            f"b:latest took {loaded + 100} MiB to load, {loaded} MiB was foreseen",
        ]
        await scheduler.stop()

    caplog.set_level("INFO")
    run(scenario())


def test_a_load_that_took_about_what_was_foreseen_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        stage = MeasuredStage()
        stage.resident_bytes = int(1.05 * needs(stage.info, num_ctx=2048, num_batch=512).loaded_bytes)
        scheduler = stage.scheduler()
        await touch(scheduler, A)
        assert len(foreseen(caplog)) == 1
        await scheduler.stop()

    caplog.set_level("INFO")
    run(scenario())


def test_what_a_load_did_not_take_may_come_with_use_and_stays_foreseen(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        stage = MeasuredStage()
        wanted = needs(stage.info, num_ctx=2048, num_batch=512)
        stage.resident_bytes = wanted.loaded_bytes // 2
        scheduler = stage.scheduler()
        await touch(scheduler, A, keep_alive_ns=0)
        await touch(scheduler, A, keep_alive_ns=0)
        lines = foreseen(caplog)
        assert len(lines) == 3  # the error is told of once
        assert lines[-1] == f"load a:latest: {wanted.total_bytes >> 20} MiB needed, num_ctx 2048"
        await scheduler.stop()

    caplog.set_level("INFO")
    run(scenario())


def test_an_encoder_gets_one_slot_and_its_window_whole_or_is_refused() -> None:
    async def scenario() -> None:
        stage = Stage(info=variant(kind=ENCODER, context_length=8192, hidden_size=4096, num_heads=16))
        scheduler = stage.scheduler(num_ctx=8192, num_parallel=4, kv_type="q8_0", prefix_dir="/prefixes")
        await touch(scheduler, A)
        (load,) = [runner.load for runner in stage.runners]
        assert (load.num_ctx, load.num_slots, load.kv_type, load.prefix_dir) == (8192, 1, "", "")
        stage.available_bytes = needs(stage.info, num_ctx=4096).total_bytes
        with pytest.raises(LoadFailed, match="requires more system memory"):
            await touch(scheduler, B)
        await scheduler.stop()

    run(scenario())
