"""A conversion from end to end: read, plan, write, verify, publish."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import msgspec

from hearth_export import verify
from hearth_export.checkpoint import Checkpoint, Tensors, open_checkpoint
from hearth_export.decoder import Decoder
from hearth_export.encoder import Encoder
from hearth_export.encodercheck import check_encoder
from hearth_export.errors import ExportError, naming
from hearth_export.expertcheck import check_experts
from hearth_export.graph import Graph
from hearth_export.kvgraph import check_attention, with_int8_cache
from hearth_export.precision import Goal
from hearth_export.progress import Progress
from hearth_export.quantize import Matrix
from hearth_export.readers.onnx import OnnxRepository
from hearth_export.readers.unknown import UnknownRepository
from hearth_export.source import describe, parameter_count
from hearth_export.spec import EncoderSpec, ModelSpec, Rope, read_spec
from hearth_export.stream import write_matrices
from hearth_export.tokenizer import TokenizerFiles, build
from hearth_export.tokenizer_limit import limited
from hearth_export.weights import Weights
from hearth_export.writer import DataFile, require_space, staged, write_file
from hearthd import __version__
from hearthd.store.durable import replace_directory
from hearthd.store.variant import EXPORTER, Q8_0, SOURCE_FILE, VARIANT_FILE, RopeInfo, VariantInfo, read_source

GRAPH_FILE = "model.onnx"
INT8_KV_GRAPH_FILE = "model.q8_0.onnx"
DATA_FILE = "model.onnx.data"
TOKENIZER_FILE = "tokenizer.json"
EXTRA_BYTES = 32 << 20  # graph, tokenizer and slack


def convert(
    source: Path, digest: str, root: Path, goal: Goal, report: Progress, *, variant: str = "", route: str = ""
) -> str:
    """Converts the checkpoint `source`, a file or a directory, into a new variant under `root`; its directory's name.

    `variant` and `route` count for what the builder does not know: the variant's name, and OPTIMUM to have it so.
    No variant under `root` changes before the new one is whole and verified. Raises ExportError, which names `source`.
    """
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ExportError(f"the digest of {source} is given as {digest!r}, not as sha256: and 64 hex digits")
    with naming(source), open_checkpoint(source, route) as checkpoint:
        if isinstance(checkpoint, UnknownRepository):
            from hearth_export.foreign import convert_foreign

            return convert_foreign(checkpoint, digest, root, report, variant=variant, goal=goal)
        if isinstance(checkpoint, OnnxRepository):
            from hearth_export.ready import take

            return take(checkpoint, digest, root, report)
        report("reading", 0, 0)
        spec = read_spec(checkpoint)
        weights = planned_weights(spec, checkpoint, goal)
        tokenizer = limited(build(checkpoint), spec.vocab_size)
        root.mkdir(parents=True, exist_ok=True)
        require_space(root, weights.graph.data_bytes + EXTRA_BYTES)
        with staged(root) as stage:
            _write_weights(stage, weights, checkpoint, report)
            kv_graphs = _write_graphs(stage, weights, spec)
            write_file(stage / TOKENIZER_FILE, tokenizer.json)
            _verify(stage, weights, checkpoint, report)
            files = {file.name: file.stat().st_size for file in sorted(stage.iterdir())}
            info = variant_info(files, digest, spec, weights, tokenizer)
            counted = parameter_count(checkpoint)
            info = msgspec.structs.replace(info, kv_graphs=kv_graphs, parameter_count=counted)
            write_file(stage / VARIANT_FILE, msgspec.json.encode(info))
            write_source(stage, root, checkpoint)
            replace_directory(stage, root / info.name)
    return info.name


def planned_weights(spec: ModelSpec | EncoderSpec, tensors: Tensors, goal: Goal) -> Weights:
    """The weights of a model with these tensors, none written yet, and with them the whole graph, made for `goal`."""
    is_decoder = isinstance(spec, ModelSpec)
    weights = Weights(tensors, goal, Graph(DATA_FILE, fine=is_decoder and goal is Goal.FIDELITY))
    builder = Decoder(spec, weights) if isinstance(spec, ModelSpec) else Encoder(spec, weights)
    builder.build()
    return weights


def _write_weights(stage: Path, weights: Weights, tensors: Tensors, report: Progress) -> None:
    total, done = weights.graph.data_bytes, 0
    report("quantizing", 0, total)
    with DataFile(stage / DATA_FILE, total) as file:
        with contextlib.closing(write_matrices(weights.matrices, tensors, file)) as written:
            for num_bytes in written:
                done += num_bytes
                report("quantizing", done, total)
        for vector in weights.vectors:
            file.write(vector.region.offset, vector.read(tensors))
    report("quantizing", total, total)


def _write_graphs(stage: Path, weights: Weights, spec: ModelSpec | EncoderSpec) -> dict[str, str]:
    """Writes the graph, and those that hold keys and values in other ways; the names of these by the way."""
    model = weights.graph.model(f"hearth {__version__}")
    write_file(stage / GRAPH_FILE, model.SerializeToString())
    if isinstance(spec, EncoderSpec):
        check_encoder(stage / GRAPH_FILE, spec, weights.graph.data_bytes)
        return {}
    write_file(stage / INT8_KV_GRAPH_FILE, with_int8_cache(model, spec).SerializeToString())
    check_attention(stage / GRAPH_FILE, stage / INT8_KV_GRAPH_FILE, spec)
    if spec.experts:
        check_experts(stage / GRAPH_FILE, spec.experts)
    return {Q8_0: INT8_KV_GRAPH_FILE}


def _verify(stage: Path, weights: Weights, tensors: Tensors, report: Progress) -> None:
    total, done = sum(matrix.num_bytes for matrix in weights.matrices), 0
    report("verifying", 0, total)
    for graph in sorted(stage.glob("*.onnx")):
        verify.check_structure(graph, weights.graph.data_bytes)
    verify.check_vectors(stage / DATA_FILE, weights.vectors, tensors)
    for matrix in weights.gathered:
        verify.check_embedding(stage, DATA_FILE, matrix, tensors)
    for num_bytes in verify.check_matrices(stage, DATA_FILE, weights.matrices, tensors):
        done += num_bytes
        report("verifying", done, total)


def write_source(stage: Path, root: Path, checkpoint: Checkpoint) -> None:
    """source.json, which stays when variants go; publishing makes it durable."""
    if read_source(root / SOURCE_FILE) is None:
        write_file(stage / SOURCE_FILE, msgspec.json.encode(describe(checkpoint)))
        (stage / SOURCE_FILE).replace(root / SOURCE_FILE)


def variant_info(
    files: dict[str, int], digest: str, spec: ModelSpec | EncoderSpec, weights: Weights, tokenizer: TokenizerFiles
) -> VariantInfo:
    """What is known of a variant of these files (name -> bytes) but parameter_count and kv_graphs."""
    return VariantInfo(
        name=_name(weights.matrices),
        exporter=EXPORTER,
        goal=str(weights.goal),
        source=digest,
        architecture=spec.architecture,
        files=files,
        holders=dict(sorted(weights.holders.items())),
        context_length=spec.context_length,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        head_dim=spec.head_dim,
        pooling=spec.pooling or "",
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
        add_bos=tokenizer.add_bos,
        add_eos=tokenizer.add_eos,
        weight_bytes=weights.graph.data_bytes,
        **(_decoder_facts(spec) if isinstance(spec, ModelSpec) else _encoder_facts(spec)),
    )


def _decoder_facts(spec: ModelSpec) -> dict[str, Any]:
    return {
        "num_kv_heads": spec.num_kv_heads,
        "ropes": [_rope_info(rope) for rope in spec.ropes],
        "layer_ropes": list(spec.layer_ropes),
        "has_hidden": True,
    }


def _encoder_facts(spec: EncoderSpec) -> dict[str, Any]:
    return {"kind": "encoder", "num_kv_heads": spec.num_heads, "ropes": [], "window": max(spec.windows, default=0)}


def _name(matrices: list[Matrix]) -> str:
    """ "cpu-int4", "cpu-f32": after the narrowest matrix behind the embedding."""
    width = min((matrix.layout.bits for matrix in matrices[1:]), default=8)
    return f"cpu-f{width}" if width == 32 else f"cpu-int{width}"


def _rope_info(rope: Rope) -> RopeInfo:
    return RopeInfo(
        list(rope.inv_freq),
        rope.attention_scale,
        list(rope.long_inv_freq),
        rope.long_attention_scale,
        rope.short_context,
    )
