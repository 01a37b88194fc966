"""`make bench-clients`: several clients at once, beside llama.cpp's server with as many slots.

    python -m bench.clients [ROUNDS]

Both are asked over HTTP by this process. Each count of clients has servers of its own with as many slots; only one
works at a time, they take turns. Decode counts the tokens that arrive while every client is answered (after the last
of the first tokens, before the first of the last ones); whole is all tokens from the first request to the last byte.
Under load: a prompt of 512 tokens arrives while three of four slots decode.
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
from bench.servers import Answer, Hearth, LlamaCpp, Server, median_ratio, store_with_model
from bench.streams import together
from bench.workload import NUM_CTX, NUM_THREADS, checkpoint

ROUNDS = 5
CLIENTS = (1, 2, 4, 8)
PROMPT_TOKENS = 100
NUM_PREDICT = 128
LATE_PROMPT_TOKENS = 512
LATE_PREDICT = 16
RUNNING = 3  # streams that decode when the late prompt arrives
RUNNING_PREDICT = 320
BEFORE_LATE = 24  # reads of each running stream before that

Figures = dict[str, dict[str, list[float]]]  # row -> server -> one figure a round


def main(rounds: int) -> None:
    """Measures and prints."""
    source = checkpoint()
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        models = Path(folder)
        prompts = Prompts(store_with_model(models, source))
        for num_clients in CLIENTS:
            measure(models, source, num_clients, rounds, prompts, figures)
    show(figures, rounds)


def measure(models: Path, source: Path, num_clients: int, rounds: int, prompts: Prompts, figures: Figures) -> None:
    """The figures of one count of clients."""
    servers: list[Server] = [Hearth(models, num_clients), LlamaCpp(source, num_clients)]
    try:
        for turn in range(-1, rounds):  # round -1 warms up
            for server in servers if turn % 2 else servers[::-1]:
                measured = side_by_side(server, num_clients, prompts)
                if num_clients == RUNNING + 1:
                    measured |= under_load(server, prompts)
                for row, value in measured.items() if turn >= 0 else ():
                    figures[row][server.name].append(value)
    finally:
        for server in servers:
            server.stop()


def side_by_side(server: Server, num_clients: int, prompts: Prompts) -> dict[str, float]:
    """So many clients that ask at the same moment; tokens a second of all together."""
    streams = [server.stream(prompts.next(PROMPT_TOKENS), NUM_PREDICT) for _ in range(num_clients)]
    asyncio.run(together(streams))
    answers = [server.answer(stream) for stream in streams]
    start = max(answer.moments[0] for answer in answers)
    end = min(answer.moments[-1] for answer in answers)
    decoded = sum(answer.tokens_between(start, end) for answer in answers) - num_clients
    whole_s = max(answer.moments[-1] for answer in answers) - min(answer.started for answer in answers)
    label = f"{num_clients} client{'s' * (num_clients > 1)}"
    return {
        f"decode, {label}, tokens/s": max(0.0, decoded / (end - start)) if end > start else 0.0,
        f"whole, {label}, tokens/s": sum(answer.num_tokens for answer in answers) / whole_s,
        f"tokens of the shortest answer, {label}": float(min(answer.num_tokens for answer in answers)),
    }


def under_load(server: Server, prompts: Prompts) -> dict[str, float]:
    """A long prompt that arrives while others are answered."""
    running, late = asyncio.run(_late_arrival(server, prompts))
    end = late.moments[0]
    stalls = [answer.longest_gap_s(late.started, end) for answer in running]
    return {
        f"under load, time to first token of {LATE_PROMPT_TOKENS} tokens, s": late.first_token_s,
        "under load, longest stall of a running stream, s": max(stalls),
        "under load, running streams that ended before, of 3": float(
            sum(answer.moments[-1] < end for answer in running)
        ),
    }


async def _late_arrival(server: Server, prompts: Prompts) -> tuple[list[Answer], Answer]:
    running = [server.stream(prompts.next(PROMPT_TOKENS), RUNNING_PREDICT) for _ in range(RUNNING)]
    late = server.stream(prompts.next(LATE_PROMPT_TOKENS), LATE_PREDICT)
    tasks = [asyncio.create_task(stream.run()) for stream in running]
    for stream in running:
        await stream.arrived(BEFORE_LATE)
    await late.run()
    await asyncio.gather(*tasks)
    return [server.answer(stream) for stream in running], server.answer(late)


def show(figures: Figures, rounds: int) -> None:
    """The table: medians, and the median of the ratios round by round."""
    table = Table(
        title=f"SmolLM2-135M Q4_1, {NUM_THREADS} threads, num_ctx {NUM_CTX} a slot, prompts of {PROMPT_TOKENS} tokens, "
        f"{NUM_PREDICT} new ones; over HTTP, medians of {rounds} rounds"
    )
    for column in ("", Hearth.name, LlamaCpp.name, "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for row in sorted(figures, key=_order):
        ours, theirs = figures[row][Hearth.name], figures[row][LlamaCpp.name]
        middle = (f"{statistics.median(values):.4g}" for values in (ours, theirs))
        table.add_row(row, *middle, median_ratio(ours, theirs))
    Console(width=130).print(table)


def _order(row: str) -> int:
    groups = ("decode", "whole", "under load", "tokens")
    return next(i for i, group in enumerate(groups) if row.startswith(group))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
