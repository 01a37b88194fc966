"""`make bench-prefix`: what the next turn of a long chat costs, beside its first.

    python -m bench.prefix [ROUNDS]

A chat of about 1500 tokens, over HTTP, with the options that a chat has by default; each round has another one. Time to
first token of the first turn with the model loaded; of the second turn; of the third turn after an unload, with prompts
saved on disk; and of a first turn that has to load the model.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.prompts import Prompts
from bench.servers import Hearth, store_with_model
from bench.workload import NUM_CTX, NUM_THREADS, checkpoint

ROUNDS = 5
CHAT_TOKENS = 1500
NUM_PREDICT = 48
PREFIX_CACHE = "1GiB"
FIRST, SECOND, RELOADED, COLD = (
    "first turn, model loaded",
    "second turn",
    "third turn after an unload, with load",
    "first turn after an unload, with load",
)
QUESTIONS = ("And what did the keeper do then?", "Who else lived near the tower?")

Chat = list[dict[str, str]]
Turns = dict[str, list["Turn"]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of a chat."""

    first_token_s: float
    load_s: float
    prompt_tokens: int
    text: str


def main(rounds: int) -> None:
    """Measures and prints."""
    source = checkpoint()
    turns: Turns = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        models = Path(folder)
        prompts = Prompts(store_with_model(models, source))
        server = Hearth(models, HEARTH_PREFIX_CACHE=PREFIX_CACHE)
        try:
            for number in range(-1, rounds):  # round -1 warms up
                for row, turn in measure(server, prompts).items() if number >= 0 else ():
                    turns[row].append(turn)
        finally:
            server.stop()
    show(turns, rounds)


def measure(server: Hearth, prompts: Prompts) -> dict[str, Turn]:
    """One round."""
    server.daemon.load()
    chat = fresh_chat(prompts)
    first = ask(server, chat)
    second = ask(server, chat := going_on(chat, first, QUESTIONS[0]))
    server.daemon.unload()
    third = ask(server, going_on(chat, second, QUESTIONS[1]))
    server.daemon.unload()
    return {FIRST: first, SECOND: second, RELOADED: third, COLD: ask(server, fresh_chat(prompts))}


def fresh_chat(prompts: Prompts) -> Chat:
    """A system prompt and a question about a long text, that begin like no other chat."""
    return [
        {"role": "system", "content": prompts.next(CHAT_TOKENS // 2, ending="")},
        {"role": "user", "content": prompts.next(CHAT_TOKENS // 2, ending="")},
    ]


def going_on(chat: Chat, answer: Turn, question: str) -> Chat:
    """The chat with the answer and another question."""
    return [*chat, {"role": "assistant", "content": answer.text}, {"role": "user", "content": question}]


def ask(server: Hearth, chat: Chat) -> Turn:
    """The next answer. SystemExit where it is an error."""
    stream = server.chat(chat, NUM_PREDICT)
    asyncio.run(stream.run())
    objects = stream.objects()
    done = objects[-1][1]
    text = "".join(line["message"]["content"] for _, line in objects)
    first = next((moment for moment, line in objects if line["message"]["content"]), objects[-1][0])
    return Turn(first - stream.started, done["load_duration"] / 1e9, done["prompt_eval_count"], text)


def show(turns: Turns, rounds: int) -> None:
    """The table: medians, and the medians of the shares round by round."""
    table = Table(title=f"SmolLM2-135M Q4_1, {NUM_THREADS} threads, num_ctx {NUM_CTX}, medians of {rounds} rounds")
    columns = ("", "prompt tokens", "first token, s", "of it load, s", "share of the first turn", "the same, with load")
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    for row, found in turns.items():
        table.add_row(
            row,
            f"{statistics.median(turn.prompt_tokens for turn in found):.0f}",
            f"{statistics.median(turn.first_token_s for turn in found):.3f}",
            f"{statistics.median(turn.load_s for turn in found):.3f}",
            share(found, turns[FIRST]),
            share(found, turns[COLD]),
        )
    Console(width=140).print(table)


def share(found: list[Turn], whole: list[Turn]) -> str:
    """Median of the ratios round by round, per cent."""
    ratios = (part.first_token_s / all_.first_token_s for part, all_ in zip(found, whole, strict=True))
    return f"{statistics.median(ratios):.1%}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
