"""`python -m bench.shift [ROUNDS]`: what a full window costs, and what it costs the text.

The starter model in this process fills its window and drops half of it, as an answer does that outgrows num_ctx:
once by turning the keys that stay, once by evaluating the tokens that stay again, in turns, medians. Then both read on
in the same text; the perplexity tells whether the older half left its mark. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.workload import NUM_THREADS, checkpoint
from hearthd.engine.session import Session, open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.engine.window import num_dropped
from hearthd.store.variant import VariantInfo, read_variant

ROUNDS = 5
WINDOWS = (2048, 4096)
KEPT = 5
TEXTS = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))  # longer than the prose of the other benches
READ_ON = 256  # tokens after the shift


def converted(source: Path, folder: Path) -> Path:
    """The variant of `source`, made by the exporter."""
    digest = "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "hearth_export", "convert", str(source), "--digest", digest, "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*/variant.json")).parent


def evaluate(session: Session, tokens: list[int]) -> float:
    """Seconds to evaluate `tokens` from an empty window."""
    started = time.perf_counter()
    session.evaluate(tokens)
    return time.perf_counter() - started


def perplexity(session: Session, tokens: list[int], past: int) -> float:
    """Of all but the first of `tokens`, read one by one from position `past`."""
    surprise = 0.0
    for place, (token, following) in enumerate(itertools.pairwise(tokens)):
        session.decode((token,), (past + place,))
        row = session.logits[0].astype(np.float64)
        surprise += float(np.logaddexp.reduce(row) - row[following])
    return math.exp(surprise / (len(tokens) - 1))


def measure(session: Session, ids: list[int], rounds: int) -> tuple[list[float], list[float], float, float]:
    """Seconds of turning and of evaluating again, a round each, and the perplexity after either."""
    num_ctx = session.num_ctx
    count = num_dropped(KEPT, num_ctx)
    window, following = ids[:num_ctx], ids[num_ctx : num_ctx + READ_ON]
    left = window[:KEPT] + window[KEPT + count :]
    turned, again = [], []
    for _ in range(rounds):
        evaluate(session, window)
        started = time.perf_counter()
        session.drop(0, KEPT, count, num_ctx)
        turned.append(time.perf_counter() - started)
        after_turning = perplexity(session, following, len(left))
        again.append(evaluate(session, left))
        after_evaluation = perplexity(session, following, len(left))
    return turned, again, after_turning, after_evaluation


def opened(directory: Path, info: VariantInfo, num_ctx: int) -> Session:
    return open_session(directory, info, num_ctx=num_ctx, num_threads=NUM_THREADS, num_batch=512)


def main(rounds: int) -> None:
    """Measures and prints."""
    table = Table(title=f"a full window of SmolLM2-135M Q4_1, {NUM_THREADS} threads, medians of {rounds} rounds")
    for column in ("num_ctx", "turn keys, ms", "evaluate again, ms", "ratio", "perplexity turned", "evaluated"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        directory = converted(checkpoint(), Path(folder))
        info = read_variant(directory)
        assert info is not None
        text = "".join(path.read_text() for path in TEXTS)
        ids = Tokenizer(directory / info.tokenizer, info).encode(text)
        for num_ctx in WINDOWS:
            turned, again, *perplexities = measure(opened(directory, info, num_ctx), ids, rounds)
            row = (statistics.median(turned) * 1e3, statistics.median(again) * 1e3)
            figures = (f"{row[0]:.0f}", f"{row[1]:.0f}", f"1 : {row[1] / row[0]:.0f}")
            table.add_row(str(num_ctx), *figures, *(f"{value:.2f}" for value in perplexities))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
