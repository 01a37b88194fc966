"""`make bench-longctx`: decode speed at long contexts, beside llama.cpp's server, both over HTTP.

    python -m bench.longctx [ROUNDS]

Both evaluate the same prompt once and then decode from it in turns; prompts are found again in the prefix caches.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.prompts import Prompts
from bench.servers import Hearth, LlamaCpp, Server, median_ratio, store_with_model
from bench.workload import NUM_THREADS, checkpoint

ROUNDS = 5
CONTEXTS = (1800, 8000)
NUM_CTX = 8192  # what the model was trained for
NUM_PREDICT = 64
KV_TYPES = (("f32", "f16"), ("q8_0", "q8_0"))  # ours, theirs

Figures = dict[str, dict[str, list[float]]]  # row -> server -> one figure a round


def main(rounds: int) -> None:
    """Measures and prints."""
    source = checkpoint()
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        models = Path(folder)
        prompts = Prompts(store_with_model(models, source))
        for ours, theirs in KV_TYPES:
            servers: list[Server] = [Hearth(models, 1, NUM_CTX, ours), LlamaCpp(source, 1, NUM_CTX, theirs)]
            try:
                for context in CONTEXTS:
                    row = f"decode @{context}, KV {ours} and {theirs}, tokens/s"
                    measure(servers, prompts.next(context), rounds, figures[row])
            finally:
                for server in servers:
                    server.stop()
    show(figures, rounds)


def measure(servers: list[Server], prompt: str, rounds: int, figures: dict[str, list[float]]) -> None:
    """Decode speeds behind one prompt; round -1 evaluates it."""
    for turn in range(-1, rounds):
        for server in servers if turn % 2 else servers[::-1]:
            stream = server.stream(prompt, NUM_PREDICT)
            asyncio.run(stream.run())
            if turn >= 0:
                figures[server.name].append(server.answer(stream).decode_tokens_s)


def show(figures: Figures, rounds: int) -> None:
    """The table: medians, and the median of the ratios round by round."""
    table = Table(title=f"SmolLM2-135M Q4_1, {NUM_THREADS} threads, num_ctx {NUM_CTX}, medians of {rounds} rounds")
    for column in ("", Hearth.name, LlamaCpp.name, "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for row, found in figures.items():
        ours, theirs = found[Hearth.name], found[LlamaCpp.name]
        table.add_row(
            row, *(f"{statistics.median(values):.4g}" for values in (ours, theirs)), median_ratio(ours, theirs)
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
