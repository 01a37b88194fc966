"""Models that do not all fit, taking turns; and another program that takes the memory away."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hearthd.memory import rss_bytes
from hearthd.scheduler.placement import MIN_RESERVE_BYTES
from tests.box import Box
from tests.e2e.daemon import Daemon
from tests.soak.asking import ask

MIB = 1 << 20
STEP_S = 0.04  # between two steps of the hog
LEFT_BYTES = 24 * MIB  # that the hog leaves: the kernel needs some room to work in
HOG = """
import sys
held = []
for line in sys.stdin:
    held.append(bytearray(b"x") * (1 << 20))
    print(len(held), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request and the text that answers it."""

    model: str
    prompt: str
    num_predict: int
    text: str


def ask_plainly(daemon: Daemon, model: str, prompt: str, num_predict: int) -> str:
    """A greedy continuation, or the error's sentence."""
    options = {"temperature": 0, "seed": 1, "num_predict": num_predict, "repeat_penalty": 1.3}
    answer = daemon.post("/api/generate", model=model, prompt=prompt, raw=True, stream=False, options=options).json()
    return str(answer.get("response", answer.get("error")))


def learn(daemon: Daemon, models: list[str], prompts: list[str], num_predict: int) -> list[Wanted]:
    """What all models answer where there is room: prompt by prompt, the models in turns."""
    found = {(model, prompt): ask_plainly(daemon, model, prompt, num_predict) for model in models for prompt in prompts}
    return [Wanted(model, prompt, num_predict, found[model, prompt]) for prompt in prompts for model in models]


def largest_bytes(daemon: Daemon) -> int:
    """What the largest model needs that it has loaded."""
    return max(int(found) for found in re.findall(r"load \S+: (\d+) MiB needed", daemon.log)) * MIB


def base_bytes(daemon: Daemon) -> int:
    """What a device needs beside its models: the daemon, and what is left to the system."""
    return rss_bytes(daemon.process.pid) + MIN_RESERVE_BYTES


async def take_turns(daemon: Daemon, wanted: list[Wanted], num_requests: int, num_clients: int) -> list[str]:
    """Sends the requests in turn, so many clients at a time; tells of each that was not answered rightly."""
    wrong: list[str] = []
    numbers = iter(range(num_requests))

    async def client() -> None:
        for number in numbers:
            want = wanted[number % len(wanted)]
            options = {"temperature": 0, "seed": 1, "num_predict": want.num_predict, "repeat_penalty": 1.3}
            body = {"model": want.model, "prompt": want.prompt, "raw": True, "options": options}
            asked = await ask(daemon.port, "/api/generate", body)
            verdict = asked.verdict()
            if verdict != "answer" or asked.text() != want.text:
                wrong.append(f"request {number}, {want.model}: {verdict}: {asked.text()!r} instead of {want.text!r}")

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return wrong


def evictions(log: str) -> int:
    """How many models made room for another."""
    return len(re.findall(r" evict \S+: ", log))


@dataclass(slots=True)
class Hog:
    """Another program in the box."""

    process: subprocess.Popen[str]
    held_mib: int = 0

    def grow(self) -> None:
        """Takes another MiB. AssertionError where it was killed."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline(), f"the hog ended at {self.held_mib} MiB: {self.process.poll()}"
        self.held_mib += 1

    def grow_until(self, condition: Callable[[], bool], box: Box) -> bool:
        """Grows step by step until the condition holds, or the box is all but full; whether it held."""
        while not (held := condition()) and box.held_bytes() < box.limit_bytes - LEFT_BYTES:
            self.grow()
            time.sleep(STEP_S)
        return held or condition()


@contextmanager
def hog_in(box: Box) -> Iterator[Hog]:
    """A hog that holds nothing yet; it is gone after the block."""
    command = [*box.wrap(), sys.executable, "-S", "-c", HOG]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Hog(process)
        finally:
            process.kill()
