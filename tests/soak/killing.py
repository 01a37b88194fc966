"""Clients of several models, whose runners are killed now and then."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tests.e2e.daemon import Daemon
from tests.soak.asking import Asked, ask
from tests.soak.watching import Watch, watched

# what a client may be told whose runner was killed, or whose model was so often that it has to wait
FORESEEN = re.compile(r"ended unexpectedly|crashed \d+ times in a row; it may be loaded again in \d+ s")
PAUSE_AFTER_ERROR_S = 0.2


@dataclass(slots=True)
class Story:
    """What happened: verdicts of all requests, and kills."""

    verdicts: Counter[str] = field(default_factory=Counter)
    num_kills: int = 0
    slowest_s: float = 0.0
    watch: Watch = field(default_factory=Watch)

    def add(self, asked: Asked) -> str:
        """Notes how a request ended."""
        verdict = re.sub(r"\d+", "N", asked.verdict())
        self.verdicts[verdict] += 1
        self.slowest_s = max(self.slowest_s, asked.ended - asked.started)
        return verdict

    def unforeseen(self) -> list[str]:
        """Verdicts that killing runners does not explain."""
        known = re.compile(FORESEEN.pattern.replace(r"\d+", "N"))
        return [verdict for verdict in self.verdicts if verdict != "answer" and not known.search(verdict)]


async def killing(
    daemon: Daemon, models: list[str], *, num_clients: int, seconds: float, every_s: float, seed: int = 1
) -> Story:
    """Loads the models with requests for so long while a random runner is killed every few seconds."""
    story, chance = Story(), random.Random(seed)
    deadline = time.monotonic() + seconds
    async with watched(daemon) as story.watch:
        killer = asyncio.create_task(_kill(daemon, every_s, chance, story))
        try:
            clients = (_client(daemon, models, deadline, random.Random(i), story) for i in range(num_clients))
            await asyncio.gather(*clients)
        finally:
            killer.cancel()
            await asyncio.wait([killer])
    return story


async def _kill(daemon: Daemon, every_s: float, chance: random.Random, story: Story) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0.5, 1.5) * every_s)
        if pids := daemon.runner_pids():
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                story.num_kills += 1


async def _client(daemon: Daemon, models: list[str], deadline: float, chance: random.Random, story: Story) -> None:
    while time.monotonic() < deadline:
        body = {
            "model": chance.choice(models),
            "stream": chance.random() < 0.7,
            "options": {"num_predict": chance.randint(1, 200), "seed": chance.randint(1, 9), "temperature": 3.0},
        }
        if chance.random() < 0.5:
            asked = await ask(daemon.port, "/api/generate", body | {"prompt": f"word {chance.random()}"})
        else:
            messages = [{"role": "user", "content": f"word {chance.random()}"}]
            asked = await ask(daemon.port, "/api/chat", body | {"messages": messages})
        if story.add(asked) != "answer":
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)
