"""`python -m bench.constrained [ROUNDS]`: what holding an answer to a JSON Schema costs.

The starter model in this process, decoding the same number of tokens behind the same prompt with and without a format,
in turns, medians; then the masks alone. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.workload import NUM_CTX, NUM_PREDICT, NUM_THREADS, checkpoint
from hearthd.engine.batch import Batch
from hearthd.engine.frames import Done, Frame, Generate, Grammar, Piece, SamplingParams
from hearthd.engine.grammar import Grammars
from hearthd.engine.session import open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import read_variant

ROUNDS = 9
QUESTION = "List the people of a small town as JSON, with their names, ages and hobbies."
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "hobbies": {"type": "array", "items": {"type": "string", "maxLength": 40}},
    },
    "required": ["name", "age", "hobbies"],
}
FORMATS = {  # none of them lets an answer end within NUM_PREDICT tokens
    "none": "",
    "schema": json.dumps({"type": "array", "items": PERSON, "minItems": 100}),
    "any JSON": json.dumps({"type": "array", "minItems": 1000}),
}
SAMPLINGS = {"greedy": SamplingParams(temperature=0), "default": SamplingParams(seed=1)}


class Model:
    """The starter model, converted into `folder`."""

    def __init__(self, folder: Path) -> None:
        directory = converted(checkpoint(), folder)
        info = read_variant(directory)
        assert info is not None
        self.info = info
        self._session = open_session(directory, info, num_ctx=NUM_CTX, num_threads=NUM_THREADS, num_batch=512)
        self.tokenizer = Tokenizer(directory / info.tokenizer, info)
        self._sent: list[Frame] = []
        self._batch = Batch(self._session, self.tokenizer, info, self._took)

    def _took(self, *frames: Frame) -> None:
        self._sent.extend(frames)

    def decode(self, schema: str, sampling: SamplingParams) -> tuple[float, str]:
        """Tokens a second of one answer, and its text."""
        self._sent.clear()
        grammar = Grammar(schema) if schema else None
        self._batch.add(Generate(1, PROMPT, sampling=sampling, num_predict=NUM_PREDICT, grammar=grammar))
        while not self._batch.idle:
            self._batch.step()
        done = self._sent[-1]
        assert isinstance(done, Done), done
        text = "".join(piece.text for piece in self._sent if isinstance(piece, Piece))
        return done.eval_count / done.eval_ns * 1e9, text


def converted(source: Path, folder: Path) -> Path:
    """The variant of `source`."""
    digest = "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "hearth_export", "convert", str(source), "--digest", digest, "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("*/variant.json")
    return path.parent


def mask_costs(model: Model, schema: str, text: str) -> tuple[float, float]:
    """Microseconds a token for mask and row, mean and worst, along `text`."""
    constraint = Grammars(model.tokenizer, model.info).compile(Grammar(schema))
    logits = np.zeros(model.info.vocab_size, np.float32)
    costs = []
    for token in model.tokenizer.encode_plain(text):
        started = time.perf_counter()
        row = constraint.apply(logits)
        if row[token] == -np.inf:  # the model had split the text otherwise
            break
        constraint.accept(token)
        costs.append((time.perf_counter() - started) * 1e6)
    return statistics.mean(costs), max(costs)


def main(rounds: int) -> None:
    """Measures and prints."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        model = Model(Path(folder))
        for turn in range(-1, rounds):  # round -1 warms up
            for sampling in SAMPLINGS:
                for name in FORMATS:
                    rate, text = model.decode(FORMATS[name], SAMPLINGS[sampling])
                    if turn >= 0:
                        rates[sampling, name].append(rate)
                    if name == "schema":
                        answer = text
        mean_us, worst_us = mask_costs(model, FORMATS["schema"], answer)
    show(rates, rounds)
    Console().print(f"masks of the schema alone: {mean_us:.0f} microseconds a token, {worst_us:.0f} at worst")


def show(rates: dict[tuple[str, str], list[float]], rounds: int) -> None:
    """The table of medians."""
    table = Table(title=f"decode, tokens/s, {NUM_THREADS} threads, {rounds} rounds in turns")
    for column in ("sampling", *FORMATS, *(f"{name} / none" for name in FORMATS if name != "none")):
        table.add_column(column, justify="right")
    for sampling in SAMPLINGS:
        medians = [f"{statistics.median(rates[sampling, name]):.1f}" for name in FORMATS]
        free = rates[sampling, "none"]
        ratios = [
            statistics.median(held / open_ for held, open_ in zip(rates[sampling, name], free, strict=True))
            for name in FORMATS
            if name != "none"
        ]
        table.add_row(sampling, *medians, *(f"{ratio:.3f}" for ratio in ratios))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
