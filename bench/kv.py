"""`make bench-kv`: keys and values as int8 beside floats: what it costs in quality and speed, what it saves of memory.

    python -m bench.kv [ROUNDS]

Quality: texts are read token by token behind a prompt, with either form and, for the scale, with floats again but the
prompt evaluated one token at a time, where other kernels round in another way. Speed: the same session objects that a
runner has, in turns; llama.cpp's server with its own types of cache beside them, over HTTP. Memory: a process each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.engines import compiled
from bench.prompts import Prompts
from bench.servers import LlamaCpp
from bench.shift import converted
from bench.workload import NUM_THREADS, PROSE, checkpoint
from hearthd.engine.kvscales import form_of
from hearthd.engine.providers.provider import load_provider
from hearthd.engine.session import Session, open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.engine.trimming import resident_bytes, trim
from hearthd.store.variant import F32, Q8_0, read_variant

ROUNDS = 5
NUM_CTX = 8192
CONTEXTS = (32, 512, 1800, 8000)
PREFILLS = (512, 8000)
USED = (2048, 8160)  # tokens
NUM_DECODED = 48
WINDOW, PROMPT = 768, 512  # tokens read, and of these the first, whose logits are not compared
MAX_WINDOWS = 6
TEXTS = [PROSE, *sorted((Path(__file__).parent.parent / "docs").glob("*.md"))]
MIB = 1 << 20

Floats = NDArray[np.float64]
Figures = dict[str, dict[str, list[float]]]  # row -> column -> a figure a round


def main(rounds: int) -> None:
    """Measures and prints."""
    console = Console(width=130)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        directory = converted(checkpoint(), Path(folder))
        sessions = {kv_type: opened(directory, kv_type) for kv_type in (F32, Q8_0)}
        console.print(quality(sessions, texts(directory)))
        figures: Figures = defaultdict(lambda: defaultdict(list))
        measure_ours(sessions, texts(directory), rounds, figures)
        del sessions
        for kv_type in ("f16", "q8_0"):
            measure_llama(kv_type, Prompts(directory), figures)
        console.print(speed(figures, rounds))
        console.print(memory(directory))


def opened(directory: Path, kv_type: str) -> Session:
    """A session as a runner opens it."""
    info = read_variant(directory)
    assert info is not None
    encode = Tokenizer(directory / info.tokenizer, info).encode
    form = form_of(kv_type, directory, info, encode, load_provider("cpu", NUM_THREADS).open)
    return open_session(directory, info, num_ctx=NUM_CTX, num_threads=NUM_THREADS, form=form)


def texts(directory: Path) -> list[int]:
    """The ids of prose and documentation, NUM_CTX of them at least."""
    info = read_variant(directory)
    assert info is not None
    ids = Tokenizer(directory / info.tokenizer, info).encode("\n\n".join(path.read_text() for path in TEXTS))
    return (ids * (NUM_CTX // len(ids) + 1))[: max(NUM_CTX, len(ids))]


def quality(sessions: dict[str, Session], ids: list[int]) -> Table:
    """Perplexity, divergence from floats, and how often both would choose the same token."""
    names = {"f32": 0.0, "f32, other kernels": 0.0, "q8_0": 0.0}
    surprises, divergences, agreements = dict(names), dict(names), dict(names)
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW, WINDOW)][:MAX_WINDOWS]
    for window in windows:
        exact = read(sessions[F32], window)
        readings = (exact, read(sessions[F32], window, one_by_one=True), read(sessions[Q8_0], window))
        following = np.array(window[PROMPT:])
        for name, rows in zip(names, readings, strict=True):
            surprises[name] -= rows[np.arange(len(rows)), following].mean() / len(windows)
            divergences[name] += (np.exp(exact) * (exact - rows)).sum(axis=1).mean() / len(windows)
            agreements[name] += float(np.mean(exact.argmax(axis=1) == rows.argmax(axis=1))) / len(windows)
    table = Table(title=f"quality: {len(windows)} texts, {WINDOW - PROMPT} tokens each behind {PROMPT}")
    for column in ("", "perplexity", "KL divergence", "same token"):
        table.add_column(column, justify="left" if not column else "right")
    for name in names:
        figures = f"{np.exp(surprises[name]):.3f}", f"{divergences[name]:.4f}", f"{agreements[name]:.1%}"
        table.add_row(name, *figures)
    return table


def read(session: Session, window: list[int], *, one_by_one: bool = False) -> Floats:
    """Log probabilities of what follows each token from the last of the prompt on, (WINDOW - PROMPT, V)."""
    for past in range(PROMPT) if one_by_one else ():
        session.decode([window[past]], [past])
    if not one_by_one:
        session.evaluate(window[:PROMPT])
    rows = [session.logits[0].astype(np.float64)]
    for past in range(PROMPT, WINDOW - 1):
        session.decode([window[past]], [past])
        rows.append(session.logits[0].astype(np.float64))
    found = np.array(rows)
    return found - np.logaddexp.reduce(found, axis=1, keepdims=True)


def measure_ours(sessions: dict[str, Session], ids: list[int], rounds: int, figures: Figures) -> None:
    """Prefill from an empty window, and decoding behind contexts that are evaluated once."""
    for length in PREFILLS:
        for kv_type, session in turns(sessions, rounds if length < NUM_CTX // 2 else 1):
            seconds = timed(partial(session.evaluate, ids[:length]))
            figures[f"prefill {length}"][kv_type].append(length / seconds)
    for length in CONTEXTS:  # the longest prefill left these tokens in both windows
        for kv_type, session in turns(sessions, rounds):
            seconds = timed(partial(decode, session, ids, length))
            figures[f"decode @{length}"][kv_type].append(NUM_DECODED / seconds)


def turns(sessions: dict[str, Session], rounds: int) -> Iterator[tuple[str, Session]]:
    """Each session once a round, in changing order."""
    for turn in range(rounds):
        yield from list(sessions.items())[:: -1 if turn % 2 else 1]


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def decode(session: Session, ids: list[int], length: int) -> None:
    """Reads tokens behind the first `length`; what the window held there is the same afterwards."""
    for past in range(length, length + NUM_DECODED):
        session.decode([ids[past]], [past])


def measure_llama(kv_type: str, prompts: Prompts, figures: Figures) -> None:
    """llama.cpp's server, a fresh prompt a figure; its prefill includes the way over HTTP."""
    server = LlamaCpp(checkpoint(), 1, NUM_CTX, kv_type)
    try:
        for length in CONTEXTS:
            stream = server.stream(prompts.next(length), NUM_DECODED)
            asyncio.run(stream.run())
            answer = server.answer(stream)
            figures[f"decode @{length}"][f"llama.cpp {kv_type}"].append(answer.decode_tokens_s)
            if length in PREFILLS:
                speed = answer.prompt_tokens / answer.first_token_s
                figures[f"prefill {length}"][f"llama.cpp {kv_type}"].append(speed)
    finally:
        server.stop()


def speed(figures: Figures, rounds: int) -> Table:
    """Medians."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(figures.values())))
    table = Table(title=f"tokens/s, SmolLM2-135M Q4_1, {NUM_THREADS} threads, {rounds} rounds (llama.cpp: one)")
    for column in ("", *columns, "q8_0 / f32"):
        table.add_column(column, justify="left" if not column else "right")
    for row, found in figures.items():
        medians = [statistics.median(found[column]) for column in columns]
        ratio = statistics.median(found[Q8_0]) / statistics.median(found[F32])
        table.add_row(row, *(f"{value:.1f}" for value in medians), f"{ratio:.2f}")
    return table


def memory(directory: Path) -> Table:
    """RSS of a process with a session, before any token and with so many in the window."""
    table = Table(title=f"RSS, MiB, num_ctx {NUM_CTX}, this process's libraries included")
    for column in ("", "loaded", *(f"{used} tokens" for used in USED), "of these keys and values"):
        table.add_column(column, justify="left" if not column else "right")
    info = read_variant(directory)
    assert info is not None
    for kv_type in (F32, Q8_0):
        command = [sys.executable, "-m", "bench.kv", "--weigh", str(directory), kv_type]
        weights = json.loads(subprocess.run(command, check=True, capture_output=True, env=compiled()).stdout)
        held = info.kv_bytes(kv_type) * USED[-1] / MIB
        table.add_row(kv_type, *(f"{weight:.0f}" for weight in weights), f"{held:.0f}")
    return table


def weigh(directory: Path, kv_type: str) -> list[float]:
    """What this process takes after opening a session, and then with ever more tokens in its window; MiB."""
    session, ids = opened(directory, kv_type), texts(directory)
    trim()
    weights = [resident_bytes() / MIB]
    for used in USED:
        session.evaluate(ids[:used])
        weights.append(resident_bytes() / MIB)
    return weights


if __name__ == "__main__":
    if sys.argv[1:2] == ["--weigh"]:
        print(json.dumps(weigh(Path(sys.argv[2]), sys.argv[3])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
