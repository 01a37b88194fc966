"""The transfer process and the settings that it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hearthd.registry.transfers import Transfers
from hearthd.transfer.messages import Settings


def test_new_settings_are_told_to_the_next_process_and_an_idle_one_leaves(tmp_path: Path) -> None:
    async def scenario() -> None:
        transfers = Transfers(Settings(version="test", key=str(tmp_path / "first")))
        try:
            first = await transfers.make_key()
            assert await transfers.make_key() == first
            transfers.configure(Settings(version="test", key=str(tmp_path / "second")), {})
            assert await transfers.make_key() != first
        finally:
            await transfers.stop()

    asyncio.run(scenario())
    assert sorted(path.name for path in tmp_path.glob("*.pub")) == ["first.pub", "second.pub"]


def test_what_is_under_way_ends_as_it_began(tmp_path: Path) -> None:
    async def scenario() -> None:
        transfers = Transfers(Settings(version="test", key=str(tmp_path / "first")))
        try:
            making = asyncio.create_task(transfers.make_key())
            await asyncio.sleep(0)
            transfers.configure(Settings(version="test", key=str(tmp_path / "second")), {})
            first = await making
            await asyncio.sleep(0)
            assert await transfers.make_key() != first
        finally:
            await transfers.stop()

    asyncio.run(scenario())
    assert sorted(path.name for path in tmp_path.glob("*.pub")) == ["first.pub", "second.pub"]
