"""The two servers that are compared over HTTP, behind one face: start, ask for a stream, read it, weigh it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.engines import MODEL, Daemon, compiled, tree_rss
from bench.streams import Stream
from bench.workload import NUM_CTX, NUM_THREADS


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer. `moments` has one entry a piece; a piece may hold several tokens."""

    started: float
    moments: list[float]
    num_tokens: int
    prompt_tokens: int

    @property
    def first_token_s(self) -> float:
        """From the request to the first piece."""
        return self.moments[0] - self.started

    @property
    def decode_tokens_s(self) -> float:
        """Tokens a second after the first one."""
        return (self.num_tokens - 1) / (self.moments[-1] - self.moments[0])

    def tokens_between(self, start: float, end: float) -> float:
        """Tokens that arrived within a span of time."""
        num_pieces = sum(start <= moment <= end for moment in self.moments)
        return num_pieces * self.num_tokens / len(self.moments)

    def longest_gap_s(self, start: float, end: float) -> float:
        """The longest time without a piece that touches the span."""
        gaps = zip(self.moments, self.moments[1:], strict=False)
        return max((after - before for before, after in gaps if after > start and before < end), default=0.0)


class Server(Protocol):
    """One column of a table."""

    name: str

    def stream(self, prompt: str, num_predict: int) -> Stream:
        """A greedy continuation of a prompt, not yet asked for."""

    def answer(self, stream: Stream) -> Answer:
        """What came. SystemExit where it was an error."""

    def rss(self) -> float:
        """Resident memory of all its processes, MiB."""

    def bare(self) -> float:
        """The part of rss() that its bench harness brings, MiB."""

    def stop(self) -> None: ...


class Hearth:
    """This project's daemon, with the model bench:latest of a store that already has it."""

    name = "hearth"

    def __init__(self, models: Path, num_slots: int = 1, num_ctx: int = NUM_CTX, kv: str = "f32", **more: str) -> None:
        settings = {
            "HEARTH_NUM_PARALLEL": str(num_slots),
            "HEARTH_CONTEXT_LENGTH": str(num_ctx),
            "HEARTH_KV_CACHE_TYPE": kv,
            "HEARTH_NUM_THREADS": str(NUM_THREADS),
            "HEARTH_KEEP_ALIVE": "-1",
        }
        self.daemon = Daemon(models, **settings | more)

    def stream(self, prompt: str, num_predict: int) -> Stream:
        """See Server. An empty prompt loads the model."""
        options = {"temperature": 0, "num_predict": num_predict}
        body = {"model": MODEL, "prompt": prompt, "raw": bool(prompt), "options": options}
        return Stream(self.daemon.port, "/api/generate", body)

    def chat(self, messages: list[dict[str, str]], num_predict: int) -> Stream:
        """An answer to a conversation by the default options, not yet asked for."""
        body = {"model": MODEL, "messages": messages, "options": {"num_predict": num_predict}}
        return Stream(self.daemon.port, "/api/chat", body)

    def answer(self, stream: Stream) -> Answer:
        """See Server."""
        objects = stream.objects()
        done = objects[-1][1]
        if not done.get("done"):
            raise SystemExit(f"bench: the daemon's stream ended with {done}")
        # the line that says done may come apart from the last token
        moments = [moment for moment, line in objects if _says(line)] or [objects[-1][0]]
        return Answer(stream.started, moments, done["eval_count"], done["prompt_eval_count"])

    def rss(self) -> float:
        """See Server."""
        return self.daemon.rss()

    def bare(self) -> float:
        """See Server: there is none."""
        return 0.0

    def stop(self) -> None:
        """See Server."""
        self.daemon.stop()


class LlamaCpp:
    """llama.cpp's server in a process of its own."""

    name = "llama.cpp"

    def __init__(self, source: Path, num_slots: int = 1, num_ctx: int = NUM_CTX, kv: str = "f16") -> None:
        command = [sys.executable, "-m", "bench.llamaserver", str(source), str(num_slots), str(num_ctx), kv]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=compiled(),
        )
        assert self._process.stdout
        while not (line := self._process.stdout.readline()).startswith("{"):
            if not line:
                raise SystemExit(f"bench: llama.cpp's server did not start with {num_slots} slots, {num_ctx}, {kv}")
        ready: dict[str, Any] = json.loads(line)
        self._port, self._bare_mib = ready["port"], ready["bare_mib"]

    def stream(self, prompt: str, num_predict: int) -> Stream:
        """See Server."""
        body = {"prompt": prompt, "n_predict": num_predict, "temperature": 0, "ignore_eos": True, "stream": True}
        return Stream(self._port, "/completion", body)

    def answer(self, stream: Stream) -> Answer:
        """See Server."""
        objects = stream.objects()
        last = objects[-1][1]
        moments = [moment for moment, line in objects if line.get("content")] or [objects[-1][0]]
        return Answer(stream.started, moments, last["tokens_predicted"], last["tokens_evaluated"])

    def rss(self) -> float:
        """See Server."""
        return tree_rss(self._process.pid)

    def bare(self) -> float:
        """See Server: the interpreter that holds it."""
        return float(self._bare_mib)

    def stop(self) -> None:
        """See Server."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def store_with_model(models: Path, source: Path) -> Path:
    """Converts `source` into a store; the variant's directory."""
    daemon = Daemon(models)
    try:
        daemon.create(source)
    finally:
        daemon.stop()
    (variant,) = (path.parent for path in models.glob("variants/*/*/variant.json"))
    return variant


def median_ratio(upper: list[float], lower: list[float]) -> str:
    """Median of the ratios round by round; a dash where a round has none."""
    pairs = [(a, b) for a, b in zip(upper, lower, strict=True) if b]
    return f"{statistics.median(a / b for a, b in pairs):.2f}" if pairs else "-"


def _says(line: dict[str, Any]) -> bool:
    return bool(line.get("response") or line.get("message", {}).get("content"))
