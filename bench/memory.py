"""`make bench-memory`: resident memory beside llama.cpp's server, at the same num_ctx and file.

    python -m bench.memory [NUM_CTX ...]

Each figure is of fresh processes: the daemon and its runner, or the process of llama.cpp's server, once as it is and
once without what its Python interpreter took before the wheel was imported. Loaded: before the first prompt. Then
after prompts of known length with 128 new tokens each, and ten seconds of idleness later.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.prompts import Prompts
from bench.servers import Hearth, LlamaCpp, Server, store_with_model
from bench.workload import CONTEXTS, NUM_PREDICT, NUM_THREADS, checkpoint

WINDOWS = (2048, 4096, 8192)
KV_TYPES = (("f32", "f16"), ("q8_0", "q8_0"))  # ours, theirs
SETTLE_S = 0.5  # after a request, before it is weighed: what was only in use for it goes back
IDLE_S = 10.0  # a runner gives back what it can spare after five

Weights = dict[str, float]  # moment -> MiB


def main(windows: tuple[int, ...], idle_s: float) -> None:
    """Measures and prints."""
    source = checkpoint()
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        models = Path(folder)
        prompts = Prompts(store_with_model(models, source))
        for ours, theirs in KV_TYPES:
            for num_ctx in windows:
                hearth, _ = weigh(partial(Hearth, models, 1, num_ctx, ours), prompts, idle_s)
                peer, bare = weigh(partial(LlamaCpp, source, 1, num_ctx, theirs), prompts, idle_s)
                show(f"num_ctx {num_ctx}, KV {ours} and {theirs}", hearth, peer, bare)


def weigh(start: Callable[[], Server], prompts: Prompts, idle_s: float) -> tuple[Weights, float]:
    """RSS at each moment of a fresh server's life, and the part of it that the bench brings; MiB."""
    server = start()
    try:
        use(server, "", 0)
        found = {"loaded": server.rss()}
        for num_tokens in CONTEXTS:
            use(server, prompts.next(num_tokens), NUM_PREDICT)
            found[f"after {num_tokens} tokens"] = server.rss()
        time.sleep(idle_s)
        found[f"idle for {idle_s:g} s after it"] = server.rss()
        return found, server.bare()
    finally:
        server.stop()


def use(server: Server, prompt: str, num_predict: int) -> None:
    """One request. Without a prompt it only loads the model, where the server does that on request."""
    if isinstance(server, Hearth) or prompt:
        stream = server.stream(prompt, num_predict)
        asyncio.run(stream.run())
        stream.objects()
    time.sleep(SETTLE_S)


def show(title: str, hearth: Weights, peer: Weights, bare: float) -> None:
    """One table."""
    table = Table(title=f"RSS, MiB: SmolLM2-135M Q4_1, {NUM_THREADS} threads, {title}")
    for column in ("", "hearth", "llama.cpp", "ratio", "llama.cpp less interpreter", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for moment, ours in hearth.items():
        theirs, core = peer[moment], peer[moment] - bare
        table.add_row(moment, *(f"{value:.4g}" for value in (ours, theirs)), f"{ours / theirs:.2f}", f"{core:.4g}",
                      f"{ours / core:.2f}")  # fmt: skip
    Console(width=130).print(table)


if __name__ == "__main__":
    asked = tuple(int(word) for word in sys.argv[1:])
    main(asked or WINDOWS, IDLE_S)
