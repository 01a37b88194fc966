from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from hearthd.errors import TransferFailed
from hearthd.registry.shared import Publish, Shared


class Counting:
    """Work that counts to three, a step a turn of `go`, and how often it began and was cancelled."""

    def __init__(self) -> None:
        self.num_begun = 0
        self.num_cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, publish: Publish[int]) -> None:
        self.num_begun += 1
        try:
            for value in (1, 2, 3):
                publish(value)
                await self.go.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise


async def all_of(shared: Shared[str, int], work: Counting, key: str = "k") -> list[int]:
    return [value async for value in shared.follow(key, work)]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_callers_of_one_key_share_one_run_and_all_see_its_end() -> None:
    async def check() -> None:
        shared, work = Shared[str, int](), Counting()
        both = [asyncio.create_task(all_of(shared, work)) for _ in range(2)]
        await settle()
        work.go.set()
        results = await asyncio.gather(*both)
        assert work.num_begun == 1
        assert [result[-1] for result in results] == [3, 3]
        assert "k" not in shared

    asyncio.run(check())


def test_other_keys_have_runs_of_their_own() -> None:
    async def check() -> None:
        shared, work = Shared[str, int](), Counting()
        work.go.set()
        await asyncio.gather(all_of(shared, work, "a"), all_of(shared, work, "b"))
        assert work.num_begun == 2

    asyncio.run(check())


def test_the_work_goes_on_while_one_caller_stays_and_stops_when_the_last_leaves() -> None:
    async def check() -> None:
        shared, work = Shared[str, int](), Counting()
        first, second = (asyncio.create_task(all_of(shared, work)) for _ in range(2))
        await settle()
        first.cancel()
        await asyncio.wait([first])
        assert (work.num_cancelled, "k" in shared) == (0, True)
        second.cancel()
        await asyncio.wait([second])
        assert (work.num_cancelled, "k" in shared) == (1, False)

    asyncio.run(check())


def test_a_caller_that_breaks_off_leaves() -> None:
    async def check() -> None:
        shared, work = Shared[str, int](), Counting()
        async with aclosing(shared.follow("k", work)) as values:
            async for value in values:
                assert value == 1
                break
        assert work.num_cancelled == 1

    asyncio.run(check())


def test_what_the_work_raises_reaches_every_caller() -> None:
    async def fail(publish: Publish[int]) -> None:
        await asyncio.sleep(0)
        raise TransferFailed("no")

    async def check() -> None:
        shared = Shared[str, int]()

        async def follow() -> None:
            async for _ in shared.follow("k", fail):
                pass

        results = await asyncio.gather(follow(), follow(), return_exceptions=True)
        assert [str(result) for result in results] == ["no", "no"]
        with pytest.raises(TransferFailed):
            await follow()

    asyncio.run(check())


def test_a_slow_caller_misses_values_but_not_the_last() -> None:
    async def hurry(publish: Publish[int]) -> None:
        for value in range(1000):
            publish(value)

    async def check() -> None:
        shared = Shared[str, int]()
        values = [value async for value in shared.follow("k", hurry)]
        assert values[-1] == 999
        assert len(values) < 1000

    asyncio.run(check())
