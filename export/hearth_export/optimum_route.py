"""`python -m hearth_export.optimum_route SOURCE OUT --bits N`: from a checkpoint to ONNX by way of torch and Optimum.

It makes model.onnx with its data and the small files beside it in the directory OUT, and prints a JSON object a line:
{"stage", "done", "total"}, then {"result": {}} or {"error"}. A process of its own, for what it imports takes 350 MiB,
and what it does several times the model.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx

from hearth_export.bind import bind
from hearth_export.errors import ExportError, UnsupportedModel
from hearth_export.fusion import fused_encoder
from hearth_export.matmul_nbits import quantize_graph
from hearth_export.readers.unknown import UnknownRepository, open_unknown
from hearth_export.ready import cosine, open_graph
from hearth_export.sentences import LENGTH_FILE, MODULES
from hearthd.engine.bound import BoundGraph, Floats

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRAPH, DATA = "model.onnx", "model.onnx.data"
MIN_EXTERNAL_BYTES = 1024
TASKS = {False: "text-generation-with-past", True: "feature-extraction"}  # by is_encoder
# What the quantized graph's output must have in common with the float one's, by bits; 0: fusion alone. A matrix in a
# wrong order leaves next to nothing in common; int8 activations take their share from narrow models.
LEAST_COSINE = {0: 0.9999, 8: 0.97, 4: 0.85}
TOKENS = 48
MISSING = "the Optimum route needs the extra: pip install 'hearthd[export]' ({} is missing)"

Say = Callable[[dict[str, object]], None]


def main(arguments: list[str] | None = None) -> int:
    """Runs the route; the exit status."""
    parser = argparse.ArgumentParser(prog="hearth_export.optimum_route")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, choices=(0, 4, 8), default=8)
    options = parser.parse_args(arguments)
    say = _speaker()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # who started it has its directory, and removes that
    try:
        make(open_unknown(options.source), options.out, options.bits, say)
    except ExportError as error:
        say({"error": str(error)})
        return 1
    except MemoryError:
        say({"error": f"{options.source}: not enough memory for the Optimum route"})
        return 1
    say({"result": {}})
    return 0


def _speaker() -> Say:
    """What prints on standard output, of which libraries that print there get standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(line: dict[str, object]) -> None:
        lines.write(msgspec.json.encode(line).decode() + "\n")
        lines.flush()

    return say


def make(repository: UnknownRepository, out: Path, bits: int, say: Say) -> None:
    """Exports, fuses, quantizes to `bits` (0: not) and compares. Raises ExportError."""
    plain = out / "float"
    say({"stage": "exporting with Optimum"})
    _export(repository, plain)
    say({"stage": "quantizing"})
    model = _joined(repository, plain / GRAPH)
    if bits:
        quantize_graph(model, bits)
    _save(model, out / GRAPH)
    del model
    say({"stage": "verifying"})
    _compare(repository, plain / GRAPH, out / GRAPH, bits)
    for path in plain.glob("*"):
        if path.suffix not in (".onnx", ".data") and not path.name.endswith("onnx_data"):
            path.rename(out / path.name)
    _copy_sentence_files(repository.path, out)
    shutil.rmtree(plain)


def _export(repository: UnknownRepository, out: Path) -> None:
    """The float graph. UnsupportedModel names an architecture that Optimum does not know."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        import torch
        from optimum.exporters.onnx import main_export
        from optimum.exporters.tasks import TasksManager
    except ImportError as error:
        raise ExportError(MISSING.format(error.name or error)) from error
    model_type, task = repository.config.get("model_type"), TASKS[repository.is_encoder]
    try:
        known = TasksManager.get_supported_tasks_for_model_type(str(model_type), "onnx", library_name="transformers")
    except KeyError:
        known = {}
    if task not in known:
        raise UnsupportedModel(
            f"{repository.path}: config.json: model_type is '{str(model_type)[:64]}', which neither the builder nor "
            f"Optimum can export for {task}; take the model as GGUF, or as a repository that holds ONNX"
        )
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        main_export(
            str(repository.path), output=out, task=task, framework="pt", library_name="transformers", device="cpu",
            trust_remote_code=False, local_files_only=True, do_validation=False,
        )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # whatever the model's own code raises
        words = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise UnsupportedModel(f"{repository.path}: Optimum cannot export this model: {words}") from error


def _joined(repository: UnknownRepository, graph: Path) -> onnx.ModelProto:
    """The graph with its weights; an encoder's with its nodes joined."""
    if repository.is_encoder:
        return fused_encoder(graph, repository.fact("attention.head_count"), repository.fact("embedding_length"))
    return onnx.load(str(graph))


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=DATA,
        size_threshold=MIN_EXTERNAL_BYTES,
    )  # fmt: skip


def _compare(repository: UnknownRepository, plain: Path, made: Path, bits: int) -> None:
    """ExportError where the graph that was made computes something else than the float one."""
    expected, found = (_outputs(repository, path) for path in (plain, made))
    worst = min(cosine(one, other) for one, other in zip(expected, found, strict=True))
    if not worst >= LEAST_COSINE[bits]:
        raise ExportError(
            f"{repository.path}: the graph with {bits or 32} bit weights computes something else than the float one "
            f"(cosine {worst:.4f}, at least {LEAST_COSINE[bits]} is expected): take more bits, or the float variant"
        )


def _outputs(repository: UnknownRepository, path: Path) -> Floats:
    """(TOKENS, ..) of a text of random tokens."""
    session = open_graph(path)
    bound = BoundGraph(session, bind(session, onnx.GraphProto(), (0, 0), repository.pad_id))
    size = max(2, min(repository.fact("vocab_size", 2), 1 << 20))
    length = min(TOKENS, repository.fact("context_length"))
    ids = np.random.default_rng(3).integers(1, size, (1, length))
    if bound.binding.states:
        return np.stack([bound.step(ids[0, :end].tolist(), 0, None)[0] for end in (1, length // 2, length)])
    (output,) = session.run([bound.binding.output], bound.feeds(ids, [0]))
    rows: Floats = output.reshape(-1, output.shape[-1]).astype(np.float32)
    return rows


def _copy_sentence_files(source: Path, out: Path) -> None:
    """What sentence-transformers says of pooling; the files are small."""
    for path in (source / MODULES, source / LENGTH_FILE, *source.glob("*/config.json")):
        if path.is_file():
            target = out / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


if __name__ == "__main__":
    sys.exit(main())
