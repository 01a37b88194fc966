"""`make bench`: engines side by side in one run, interleaved, medians of the rounds.

    python -m bench [ROUNDS]

Run it on a machine that does nothing else. Only ratios within one run mean much.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.engines import Daemon, Engine, Worker, forget
from bench.workload import CONTEXTS, NUM_PREDICT, NUM_THREADS, PREFILL, PROSE, checkpoint, prompt

ROUNDS = 9

Figures = dict[str, dict[str, list[float]]]  # row -> engine -> one figure a round


def main(rounds: int) -> None:
    """Measures and prints."""
    source = checkpoint()
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        models = Path(folder)
        daemon = Daemon(models)
        convert_s = daemon.create(source)
        (variant_dir,) = (path.parent for path in models.glob("variants/*/*/variant.json"))
        engines: list[Engine] = [
            daemon,
            Worker("hearth, in process", "inprocess", variant_dir),
            Worker("llama.cpp wheel", "llamacpp", source),
        ]
        try:
            figures = measure(engines, variant_dir, source, rounds)
        finally:
            for engine in engines:
                engine.stop()
    show(figures, [engine.name for engine in engines], rounds, convert_s)


def measure(engines: list[Engine], variant_dir: Path, source: Path, rounds: int) -> Figures:
    """All figures; engines take turns within a round."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    files = [source, *variant_dir.iterdir()]
    for engine in engines:
        figures["RSS idle, MiB"][engine.name].append(engine.rss())
    for turn in range(rounds):
        for engine in engines[turn % len(engines) :] + engines[: turn % len(engines)]:
            load_and_unload(engine, files, figures)
    for engine in engines:
        engine.refresh()
        engine.load()
        figures["RSS loaded, MiB"][engine.name].append(engine.rss())
    decode(engines, variant_dir, rounds, figures)
    for engine in engines:
        figures["RSS after use, MiB"][engine.name].append(engine.rss())
        engine.unload()
        figures["RSS after unload, MiB"][engine.name].append(engine.rss())
    return figures


def load_and_unload(engine: Engine, files: list[Path], figures: Figures) -> None:
    forget(files)
    for row in ("load cold, s", "load warm, s"):
        figures[row][engine.name].append(engine.load())
        engine.unload()


def decode(engines: list[Engine], variant_dir: Path, rounds: int, figures: Figures) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(variant_dir / "tokenizer.json"))
    ids = tokenizer.encode(PROSE.read_text()).ids
    serial = 0
    for turn in range(-1, rounds):  # round -1 warms up
        for context in CONTEXTS:
            for engine in engines[turn % len(engines) :] + engines[: turn % len(engines)]:
                serial += 1
                tokens = prompt(ids, serial, context)
                measured = engine.generate(tokens, tokenizer.decode(tokens), NUM_PREDICT)
                if turn < 0:
                    continue
                figures[f"decode @{context}, tokens/s"][engine.name].append(measured.decode_tokens_s)
                if context == PREFILL:
                    figures[f"prefill {PREFILL}, tokens/s"][engine.name].append(measured.prefill_tokens_s)
                    figures[f"time to first token @{PREFILL}, s"][engine.name].append(measured.first_token_s)


def show(figures: Figures, names: list[str], rounds: int, convert_s: float) -> None:
    """The table: medians, then the ratios that matter."""
    table = Table(title=f"SmolLM2-135M Q4_1, {NUM_THREADS} threads, medians of {rounds} interleaved rounds")
    for column in ("", *names, "daemon / in process", "in process / llama.cpp"):
        table.add_column(column, justify="left" if not column else "right")
    for row in sorted(figures, key=_order):
        middle = [statistics.median(figures[row][name]) for name in names]
        table.add_row(row, *(f"{value:.4g}" for value in middle), *_ratios(figures[row], names))
    Console(width=150).print(table, f"conversion of the GGUF file through /api/create: {convert_s:.1f} s")


def _ratios(row: dict[str, list[float]], names: list[str]) -> tuple[str, str]:
    """Medians of the ratios round by round."""

    def ratio(upper: str, lower: str) -> str:
        return f"{statistics.median(a / b for a, b in zip(row[upper], row[lower], strict=True)):.3f}"

    return ratio(names[0], names[1]), ratio(names[1], names[2])


def _order(row: str) -> tuple[int, str]:
    groups = ("prefill", "decode @32", "decode @512", "decode @1800", "time", "load", "RSS idle", "RSS loaded")
    return next((i for i, group in enumerate(groups) if row.startswith(group)), len(groups)), row


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
