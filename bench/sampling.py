"""What the choice of a token costs beside the decode step before it.

    python -m bench.sampling [ROUNDS]

Every choice follows a decode step, so that it finds its code and its row as cold as in the runner: repeated without
a step in between it would look two to five times cheaper. At 49,152 tokens the step is the starter model's. At
256,000 it is a stand-in that has the matrices of a model of 270M, of 4 bits, in 18 decoder layers and the head, but
no attention and no norms, so that it is too fast, which counts against the sampler. Run it on a machine that does
nothing else.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from bench.constrained import converted
from bench.workload import NUM_CTX, NUM_THREADS, checkpoint
from hearthd.engine.frames import SamplingParams
from hearthd.engine.logprobs import logprob_of
from hearthd.engine.sampler import Floats, Sampler
from hearthd.engine.session import open_session
from hearthd.store.variant import read_variant

ROUNDS = 60
NUM_ROWS = 16
TOKEN, PAST = 100, 512
BLOCK = 32
SLOPE, NOISE = 1.4, 0.5  # of the logits over the logarithm of their rank; an entropy near 3 nats, as in plain prose

Choose = Callable[[Floats], object]


STAND_IN_VOCAB, STAND_IN_HIDDEN, STAND_IN_LAYERS = 256_000, 640, 18
STAND_IN_MATRICES = {"qkv": 1536, "out": 1024, "gate_up": 4096, "down": 2048}  # rows, of as many columns as the head's


OPTIONS = {
    "defaults": SamplingParams(seed=1),
    "temperature 0": SamplingParams(temperature=0.0),
    "defaults of 2024: repeat_penalty 1.1": SamplingParams(seed=1, repeat_penalty=1.1),
    "all penalties, repeat_last_n -1": SamplingParams(
        seed=1, repeat_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, repeat_last_n=-1
    ),
    "min_p 0.05": SamplingParams(seed=1, min_p=0.05),
    "tfs_z 0.95": SamplingParams(seed=1, tfs_z=0.95),
    "typical_p 0.9": SamplingParams(seed=1, typical_p=0.9),
    "top_k 1000": SamplingParams(seed=1, top_k=1000),
    "top_k 0": SamplingParams(seed=1, top_k=0),
    "top_k 0, top_p 1": SamplingParams(seed=1, top_k=0, top_p=1.0),
    "top_k 0, top_p 1, min_p 0.05": SamplingParams(seed=1, top_k=0, top_p=1.0, min_p=0.05),
    "top_k 0, tfs_z 0.95": SamplingParams(seed=1, top_k=0, tfs_z=0.95),
    "top_k 0, typical_p 0.9": SamplingParams(seed=1, top_k=0, typical_p=0.9),
    "mirostat 1": SamplingParams(seed=1, mirostat=1),
    "mirostat 2": SamplingParams(seed=1, mirostat=2),
}


def main(rounds: int) -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        show("the starter model", *measure(Starter(Path(folder)), rounds), rounds)
    show("a stand-in for a model of 270M", *measure(StandIn(), rounds), rounds)


def rows(vocab_size: int) -> list[Floats]:
    """Rows like those of language models: Zipf's law with noise, the tokens in any order."""
    rng = np.random.default_rng(0)
    falls = -SLOPE * np.log(np.arange(1, vocab_size + 1))
    return [rng.permutation(falls + rng.normal(0, NOISE, vocab_size)).astype(np.float32) for _ in range(NUM_ROWS)]


def cases(vocab_size: int) -> dict[str, Choose]:
    """What is measured, by the words for it."""
    prompt = np.random.default_rng(1).integers(0, vocab_size, NUM_CTX).tolist()
    found: dict[str, Choose] = {
        name: Sampler(params, num_ctx=NUM_CTX, prompt=prompt).choose for name, params in OPTIONS.items()
    }
    plain = Sampler(SamplingParams(seed=1), num_ctx=NUM_CTX, prompt=prompt)
    found["a mask on the row, then defaults"] = masked(vocab_size, plain)
    found["logprobs, top_logprobs 20"] = lambda row: logprob_of(row, 5, 20, lambda token: b"token")
    return found


def masked(vocab_size: int, sampler: Sampler) -> Choose:
    """Chooses where a grammar lets through most of the tokens; how it comes by its mask is not part of this."""
    allowed = np.random.default_rng(2).random(vocab_size) < 0.95
    buffer = np.empty(vocab_size, np.float32)

    def constrain(row: Floats) -> Floats:
        buffer.fill(-np.inf)
        np.copyto(buffer, row, where=allowed)
        return buffer

    return lambda row: sampler.choose(row, constrain)


def measure(step: Step, rounds: int) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each decode step, and of each choice by case."""
    samples, todo = rows(len(step.row)), cases(len(step.row))
    steps: list[float] = []
    chosen: dict[str, list[float]] = {}
    for turn in range(-2, rounds):  # the first two warm up
        for name, choose in todo.items():
            started = time.perf_counter()
            step.run()
            ended = time.perf_counter()
            step.row[:] = samples[turn % NUM_ROWS]
            before = time.perf_counter()
            choose(step.row)
            after = time.perf_counter()
            if turn >= 0:
                steps.append(ended - started)
                chosen.setdefault(name, []).append(after - before)
    return steps, chosen


class Step(Protocol):
    """A decode step that can be repeated, and the row (V,) that it writes."""

    row: Floats

    def run(self) -> None: ...


class Starter:
    """The starter model, at one position."""

    def __init__(self, folder: Path) -> None:
        directory = converted(checkpoint(), folder)
        info = read_variant(directory)
        assert info is not None
        self._session = open_session(directory, info, num_ctx=NUM_CTX, num_threads=NUM_THREADS, num_batch=512)
        self._session.evaluate([TOKEN] * PAST)
        self.row: Floats = self._session.logits[0]

    def run(self) -> None:
        """One step."""
        self._session.decode((TOKEN,), (PAST,))


class StandIn:
    """Does what a decode step does to memory."""

    def __init__(self) -> None:
        layers = range(STAND_IN_LAYERS)
        widths = {f"{name}.{layer}": width for layer in layers for name, width in STAND_IN_MATRICES.items()}
        widths["head"] = STAND_IN_VOCAB
        options = ort.SessionOptions()
        options.intra_op_num_threads = NUM_THREADS
        model = network(widths, STAND_IN_HIDDEN).SerializeToString()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._arrays = {name: np.zeros((1, width), np.float32) for name, width in widths.items()}
        self._arrays["x"] = np.ones((1, STAND_IN_HIDDEN), np.float32)
        for name, array in self._arrays.items():
            bind = self._binding.bind_input if name == "x" else self._binding.bind_output
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self.row: Floats = self._arrays["head"][0]

    def run(self) -> None:
        """One step."""
        self._session.run_with_iobinding(self._binding)


def network(widths: dict[str, int], hidden_size: int) -> onnx.ModelProto:
    """Matrices of 4 bits, `hidden_size` wide and `widths` high, times x; their products by name."""
    nodes, weights = [], []
    num_blocks = hidden_size // BLOCK
    attributes = {"K": hidden_size, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    for name, width in widths.items():
        packed, scales = f"{name}.weights", f"{name}.scales"
        codes = np.random.default_rng(3).integers(0, 256, (width, num_blocks, BLOCK // 2), np.uint8)
        factors = np.full(width * num_blocks, 0.01, np.float32)
        weights.append(helper.make_tensor(packed, TensorProto.UINT8, codes.shape, codes.tobytes(), raw=True))
        weights.append(helper.make_tensor(scales, TensorProto.FLOAT, factors.shape, factors.tobytes(), raw=True))
        inputs = ["x", packed, scales]
        nodes.append(helper.make_node("MatMulNBits", inputs, [name], domain="com.microsoft", N=width, **attributes))
    x, *products = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])
        for name, width in {"x": hidden_size, **widths}.items()
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "step", [x], products, weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def show(name: str, steps: list[float], chosen: dict[str, list[float]], rounds: int) -> None:
    """The table: medians and minima, and the shares of the median step."""
    step = statistics.median(steps)
    table = Table(title=f"{name}: a step of {step * 1e3:.2f} ms, {NUM_THREADS} threads, {rounds} rounds")
    for column in ("", "median, µs", "least, µs", "of a step"):
        table.add_column(column, justify="left" if not column else "right")
    for case, seconds in chosen.items():
        middle = statistics.median(seconds)
        table.add_row(case, f"{middle * 1e6:.0f}", f"{min(seconds) * 1e6:.0f}", f"{middle / step:.1%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
