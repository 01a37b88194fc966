from __future__ import annotations

import asyncio

import pytest

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.messages import Settings
from hearthd.transfer.retry import Retries


def retries(num_retries: int) -> Retries:
    return Retries(Settings(version="1", backoff_s=0.0, num_retries=num_retries))


def fail(retries: Retries, times: int, *, gained: bool = False) -> None:
    async def run() -> None:
        for _ in range(times):
            await retries.pause(Passing("lost", "why", 503), gained=gained)

    asyncio.run(run())


def test_one_failure_more_than_retries_is_the_last() -> None:
    patient = retries(3)
    fail(patient, 3)
    with pytest.raises(TransferError, match="lost") as caught:
        fail(patient, 1)
    assert (type(caught.value), caught.value.reason, caught.value.status) == (TransferError, "why", 503)


def test_progress_starts_the_count_anew() -> None:
    patient = retries(2)
    fail(patient, 100, gained=True)
    fail(patient, 1)
    with pytest.raises(TransferError):
        fail(patient, 1)


def test_many_failures_make_no_endless_pause() -> None:
    fail(retries(3000), 2500)
