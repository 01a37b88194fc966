"""Clients of one model that come and go: every kind of request, some of which their client leaves."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.daemon import Daemon
from tests.soak.asking import Asked, Leave, ask
from tests.soak.watching import Watch, watched

WORDS = "tell me about the sea sky tower keeper cat bread lamp road village night ship storm light glass".split(" ")  # noqa: SIM905
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
LEAVING_SHARE = 0.1


@dataclass(slots=True)
class Visits:
    """What happened."""

    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)  # to the first piece of a streamed answer
    num_tokens: int = 0
    watch: Watch = field(default_factory=Watch)

    def add(self, kind: str, asked: Asked) -> None:
        """Notes how a request ended."""
        self.kinds[kind] += 1
        verdict = asked.verdict()
        self.verdicts[verdict] += 1
        if verdict != "answer":
            return
        self.num_tokens += asked.last().get("eval_count", 0)
        if kind == "schema" and asked.last().get("done_reason") == "stop":
            self._check(asked)
        if asked.body["stream"]:
            self.gaps_s += asked.gaps_s()
            self.waits_s.append(asked.objects()[0][0] - asked.started)

    def _check(self, asked: Asked) -> None:
        try:
            found = json.loads(asked.text())
        except ValueError as error:
            self.faults.append(f"{asked.text()!r}: {error}")
            return
        if set(found) != {"name", "age"}:
            self.faults.append(f"{asked.text()!r} is not what the schema says")


async def visiting(daemon: Daemon, model: str, *, num_clients: int, seconds: float, tools: bool) -> Visits:
    """So many clients, each asking again as soon as it is answered, for so long."""
    visits = Visits()
    deadline = time.monotonic() + seconds
    async with watched(daemon) as visits.watch:
        clients = (_client(daemon, model, deadline, random.Random(i), visits, tools) for i in range(num_clients))
        await asyncio.gather(*clients)
    return visits


async def _client(
    daemon: Daemon, model: str, deadline: float, chance: random.Random, visits: Visits, tools: bool
) -> None:
    await asyncio.sleep(chance.random())
    while time.monotonic() < deadline:
        kind, path, body = _request(model, chance, tools)
        leave = None
        if chance.random() < LEAVING_SHARE:
            leave = Leave(reads=chance.randint(1, 12), seconds=chance.uniform(0.1, 30.0))
        visits.add(kind, await ask(daemon.port, path, body, leave))


def _request(model: str, chance: random.Random, tools: bool) -> tuple[str, str, dict[str, Any]]:
    """A kind, a path and a body."""
    body: dict[str, Any] = {"model": model, "stream": chance.random() < 0.7, "options": _options(chance)}
    text = " ".join(chance.choices(WORDS, k=chance.choice((3, 10, 30, 120))))
    kind = chance.choices(
        ("generate", "chat", "turn", "json", "schema", "tools"), (4, 4, 2, 0.5, 1, 1 if tools else 0)
    )[0]
    if kind == "generate":
        return kind, "/api/generate", body | {"prompt": text, "raw": chance.random() < 0.5}
    messages = [{"role": "user", "content": text}]
    if kind == "turn":
        messages = [{"role": "system", "content": "You are brief."}, *messages]
        messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"}]
    if kind == "json":
        body["format"] = "json"
    if kind == "schema":
        body["format"] = SCHEMA
        body["options"]["num_predict"] = 64
    if kind == "tools":
        body["tools"] = [TOOL]
    return kind, "/api/chat", body | {"messages": messages}


def _options(chance: random.Random) -> dict[str, Any]:
    """None that loads the model again."""
    options: dict[str, Any] = {"num_predict": chance.randint(1, 48), "temperature": chance.choice((0, 0.5, 0.8, 1.5))}
    more: dict[str, Any] = {
        "seed": chance.randint(0, 5),
        "top_k": chance.choice((1, 20, 100)),
        "top_p": chance.choice((0.5, 0.95, 1.0)),
        "min_p": 0.05,
        "repeat_penalty": 1.2,
        "presence_penalty": 0.5,
        "mirostat": chance.choice((1, 2)),
        "stop": ["\n\n", "the end"],
        "num_keep": 4,
    }
    return options | {name: value for name, value in more.items() if chance.random() < 0.2}
