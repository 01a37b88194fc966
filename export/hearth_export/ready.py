"""A repository that holds ONNX graphs becomes a variant: the graph as it is, and what its values are for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort

from hearth_export.bind import bind
from hearth_export.checkpoint import Checkpoint
from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel
from hearth_export.pipeline import EXTRA_BYTES, TOKENIZER_FILE, write_source
from hearth_export.progress import Progress
from hearth_export.readers.onnx import OnnxRepository, is_plain_name, tensor_infos
from hearth_export.readers.skeleton import read_skeleton
from hearth_export.source import parameter_count
from hearth_export.tokenizer import TokenizerFiles, build
from hearth_export.tokenizer_limit import limited
from hearth_export.writer import require_space, staged, write_file
from hearthd.engine.bound import Array, BoundGraph, Floats, cut
from hearthd.memory import read_memory
from hearthd.store.durable import replace_directory
from hearthd.store.variant import ENCODER, EXPORTER, VARIANT_FILE, Binding, VariantInfo

LOCATION = "location"  # of external_data
POOLINGS = {1: "mean", 2: "cls", 3: "last"}  # `llama_pooling_type` in llama.cpp's llama.h
TRIAL = (5, 4, 1, 1, 1)  # tokens evaluated at a time, behind each other
TRIAL_COSINE = 0.95  # 8 bit activations see other maxima in other chunks
BATCH_COSINE = 0.999
TRIAL_SHARE = 0.5  # of what is lost where keys and values are not read


def take(
    repository: OnnxRepository,
    digest: str,
    root: Path,
    report: Progress,
    *,
    described: Checkpoint | None = None,
    owned: bool = False,
    goal: str = "",
) -> str:
    """Makes a variant of the repository's best graph under `root`; its directory's name. Raises ExportError.

    `described`: the checkpoint that the graph was made of, where that is another one. `owned`: nobody else will change
    the files. `goal`: what it was made for, where it was made here.
    """
    name = repository.graphs[0]
    report("reading", 0, 0)
    skeleton = read_skeleton(repository.path / name)
    files = graph_files(repository.path / name, skeleton)
    total = sum(path.stat().st_size for path in files)
    _require_memory(total)
    require_space(root if root.exists() else root.parent, total + EXTRA_BYTES)
    with staged(root) as stage:
        for path in files:
            place(path, stage / path.name, owned=owned)
        binding, vocab_size = _tried(stage / files[0].name, skeleton, repository, report)
        tokenizer = build(repository)
        if binding.states:
            tokenizer = limited(tokenizer, vocab_size)
        write_file(stage / TOKENIZER_FILE, tokenizer.json)
        sizes = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        info = _info(repository, digest, files[0].name, sizes, skeleton, binding, tokenizer, vocab_size)
        info = msgspec.structs.replace(info, goal=goal)
        write_file(stage / VARIANT_FILE, msgspec.json.encode(info))
        write_source(stage, root, described or repository)
        replace_directory(stage, root / info.name)
    return info.name


def graph_files(graph: Path, skeleton: onnx.ModelProto) -> list[Path]:
    """The graph, and the files that its weights lie in. BadCheckpoint where one is missing or lies elsewhere."""
    names = {entry.value for tensor in skeleton.graph.initializer for entry in tensor.external_data
             if entry.key == LOCATION}  # fmt: skip
    for name in sorted(names):
        if not is_plain_name(name.removeprefix("./")):
            raise BadCheckpoint(f"{graph}: its weights are said to lie in {name[:128]!r}, which is no file beside it")
        if not (graph.parent / name).is_file():
            raise BadCheckpoint(f"{graph}: the file {name} with its weights is missing")
    return [graph, *(graph.parent / name for name in sorted(names))]


def place(source: Path, target: Path, *, owned: bool) -> None:
    """Gives a file of a store another name, which takes no space; copies what its owner may change."""
    if owned or source.is_symlink():
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass  # another file system, or one without links
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _require_memory(num_bytes: int) -> None:
    available = read_memory().available_bytes
    if available < num_bytes:
        raise ExportError(
            f"not enough memory to try the graph: its weights take {num_bytes >> 20} MiB, and {available >> 20} MiB "
            "are free"
        )


def _tried(graph: Path, skeleton: onnx.ModelProto, repository: OnnxRepository, report: Progress) -> tuple[Binding, int]:
    """The binding, and how many tokens there are logits of; what the graph computes with it has been looked at."""
    report("verifying", 0, 0)
    session = open_graph(graph)
    num_heads = repository.fact("attention.head_count")
    head_size = repository.fact("embedding_length") // num_heads if num_heads else 0
    heads = (
        repository.fact("attention.head_count_kv", num_heads),
        repository.fact("attention.key_length", head_size),
    )
    try:
        binding = bind(session, skeleton.graph, heads, repository.pad_id)
        bound = BoundGraph(session, binding)
        if not binding.states:
            return binding, _try_encoder(bound)
        num_logits = _try_decoder(bound)
        return msgspec.structs.replace(binding, is_batched=binding.in_place and _batches(bound)), num_logits
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{repository.graphs[0]}: {error}") from None
    except Exception as error:  # ONNX Runtime's classes have no base of their own
        raise _refusal(repository.graphs[0], error) from error


def open_graph(graph: Path) -> ort.InferenceSession:
    """A session on the CPU. UnsupportedModel with ONNX Runtime's words where it refuses the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refusal(graph.name, error) from error


def _refusal(name: str, error: Exception) -> ExportError:
    if isinstance(error, ExportError):
        return error
    words = " ".join(str(error).split())[:300]
    return UnsupportedModel(f"{name}: ONNX Runtime {ort.__version__} cannot run this graph: {words}")


def _try_decoder(graph: BoundGraph) -> int:
    """The number of logits. UnsupportedModel where a text evaluated in pieces gives others than at once."""
    first, _ = graph.step([0], 0, None)
    tokens = [(7919 * index + 11) % min(len(first), 1000) for index in range(sum(TRIAL))]
    whole, _ = graph.step(tokens, 0, None)
    pieces, forgotten = _in_pieces(graph, tokens)
    if not np.isfinite(whole).all() or not np.isfinite(pieces).all():
        raise UnsupportedModel("the graph computes logits that are not finite on a CPU; take another precision")
    agreement, error = cosine(whole, pieces), np.linalg.norm(whole - pieces)
    if agreement < TRIAL_COSINE or error > TRIAL_SHARE * np.linalg.norm(whole - forgotten):
        raise UnsupportedModel(
            f"a text in pieces gives other logits than at once (cosine {agreement:.3f}): its keys and values are not "
            "used as they should be"
        )
    return len(whole)


def _in_pieces(graph: BoundGraph, tokens: Sequence[int]) -> tuple[Floats, Floats]:
    """The last token's logits, and what they would be if all before it had left only zeros."""
    states: list[Array] | None = None
    done, row, forgotten = 0, np.zeros(0, np.float32), np.zeros(0, np.float32)
    for size in TRIAL:
        piece, zeros = tokens[done : done + size], [np.zeros_like(array) for array in states or ()]
        forgotten, _ = graph.step(piece, done, zeros or None)
        row, states = graph.step(piece, done, states)
        done += size
        states = [cut(state, array, done) for state, array in zip(graph.binding.states, states, strict=True)]
    return row, forgotten


def _batches(graph: BoundGraph) -> bool:
    """Whether sequences of different lengths may share a step, padded behind their ends."""
    tokens, pasts = [11, 7, 5, 3, 2, 1], (5, 2)
    rows, held = [], []
    for past in pasts:
        _, states = graph.step(tokens[:past], 0, None)
        held.append([np.pad(array, _behind(array, max(pasts) - past)) for array in states])
        rows.append(graph.step(tokens[past : past + 1], past, states)[0])
    feeds = graph.feeds(np.array([[tokens[past]] for past in pasts], np.int64), pasts)
    feeds |= {state.past: np.concatenate(both) for state, *both in zip(graph.binding.states, *held, strict=True)}
    try:
        (together,) = graph.ort.run([graph.binding.output], feeds)
    except Exception:  # ONNX Runtime's classes have no base of their own
        return False
    return cosine(np.stack(rows), together.reshape(len(pasts), -1)) > BATCH_COSINE


def _behind(array: Array, count: int) -> list[tuple[int, int]]:
    """np.pad's widths for so many positions more, (B, heads, positions, size)."""
    return [(0, count if axis == 2 else 0) for axis in range(array.ndim)]


def _try_encoder(graph: BoundGraph) -> int:
    """The size of its vectors. UnsupportedModel where padding changes them, or they are of no use."""
    text = np.array([[1, 2, 3]], np.int64)
    padded = np.full((1, 5), graph.binding.pad_id, np.int64)
    padded[0, :3] = text
    names = [graph.binding.output]
    (alone,) = graph.ort.run(names, graph.feeds(text, [0]))
    (other,) = graph.ort.run(names, graph.feeds(padded, [0], [3]))
    alone, other = (x if x.ndim == 2 else x[:, :3] for x in (alone, other))
    if alone.ndim not in (2, 3) or alone.shape != other.shape:
        raise UnsupportedModel(f"its output {names[0]} has the shape {alone.shape}")
    if not np.isfinite(alone).all() or cosine(alone, other) < TRIAL_COSINE:
        raise UnsupportedModel("the graph's vectors are not finite, or change with the padding behind a text")
    return int(alone.shape[-1])


def cosine(one: Array, other: Array) -> float:
    """Of all numbers together, their mean taken away."""
    x, y = (values.astype(np.float64).ravel() - values.mean(dtype=np.float64) for values in (one, other))
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm else 1.0


def _info(
    repository: OnnxRepository,
    digest: str,
    graph: str,
    files: dict[str, int],
    skeleton: onnx.ModelProto,
    binding: Binding,
    tokenizer: TokenizerFiles,
    num_outputs: int,
) -> VariantInfo:
    kind = _kind_of_weights(skeleton.graph)
    fact = repository.fact
    num_heads = fact("attention.head_count", 1)
    is_decoder = bool(binding.states)
    num_kv_heads, head_dim = _kv_sizes(binding)
    return VariantInfo(
        name=f"cpu-{kind.lower()}",
        kind="decoder" if is_decoder else ENCODER,
        exporter=EXPORTER,
        source=digest,
        architecture=repository.require("general.architecture", str),
        graph=graph,
        files=files,
        holders={kind: "as it is"},
        context_length=fact("context_length"),
        vocab_size=num_outputs if is_decoder else max(fact("vocab_size"), tokenizer.num_tokens),
        hidden_size=fact("embedding_length", 1) if is_decoder else num_outputs,
        num_layers=len(binding.states) // 2 if is_decoder else fact("block_count", 1),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads or num_heads,
        head_dim=head_dim or max(1, fact("embedding_length", 1) // num_heads),
        kv_dtype=binding.states[0].dtype if is_decoder else "float32",
        ropes=[],
        pooling=POOLINGS.get(fact("pooling_type"), "" if is_decoder else "mean"),
        binding=binding,
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
        add_bos=tokenizer.add_bos,
        add_eos=tokenizer.add_eos,
        parameter_count=parameter_count(repository),
        weight_bytes=sum(size for name, size in files.items() if name != TOKENIZER_FILE),
    )


def _kv_sizes(binding: Binding) -> tuple[int, int]:
    """Heads and their size, of which a position's keys take as many numbers as in the graph's own shape."""
    if not binding.states:
        return 0, 0
    shape = binding.states[0].shape
    if len(shape) == 3 and shape[1] == -1:
        return shape[0], shape[2]
    return 1, int(np.prod([size for size in shape if size > 0]))


def _kind_of_weights(graph: onnx.GraphProto) -> str:
    """ "INT4", "F32": what most weights are held as."""
    sizes: dict[str, int] = {}
    for info in tensor_infos(graph):
        sizes[info.type] = sizes.get(info.type, 0) + info.nbytes * 8
    return max(sizes, key=lambda kind: sizes[kind], default="F32")
