from __future__ import annotations

import asyncio
import time

from hearthd.transfer.rate import Rate


async def pass_all(rate: Rate, num_bytes: int, num_users: int) -> None:
    async def use() -> None:
        left = num_bytes // num_users
        while left:
            step = rate.step_bytes(left)
            await rate.take(step)
            left -= step

    await asyncio.gather(*(use() for _ in range(num_users)))


def test_users_together_stay_below_the_limit() -> None:
    for num_users in (1, 3):
        started_s = time.monotonic()
        asyncio.run(pass_all(Rate(300_000), 90_000, num_users))
        assert time.monotonic() - started_s >= 0.2  # 90 kB are 0.3 s, less the slice that is free


def test_idle_time_is_not_saved_up() -> None:
    async def burst() -> None:
        rate = Rate(100_000)
        await rate.take(1)
        await asyncio.sleep(0.3)
        started_s = time.monotonic()
        await pass_all(rate, 25_000, 1)
        assert time.monotonic() - started_s >= 0.15

    asyncio.run(burst())


def test_steps_are_small_where_the_limit_is_low() -> None:
    assert Rate(0).step_bytes(1 << 20) == 1 << 20
    assert Rate(10_000_000).step_bytes(1 << 20) == 500_000
    assert Rate(10_000).step_bytes(1 << 20) == 1024
    assert Rate(10_000).step_bytes(100) == 100


def test_no_limit_lets_everything_through_at_once() -> None:
    asyncio.run(pass_all(Rate(0), 1 << 40, 1))
