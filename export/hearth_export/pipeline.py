"""A conversion from end to end: read, plan, write, verify, publish."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from hearth_export import verify
from hearth_export.decoder import Decoder
from hearth_export.errors import BadCheckpoint, ExportError, UnsupportedModel, naming
from hearth_export.graph import Graph
from hearth_export.kvgraph import check_attention, with_int8_cache
from hearth_export.precision import Goal
from hearth_export.progress import Progress
from hearth_export.quantize import Matrix
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.source import describe, parameter_count
from hearth_export.spec import EncoderSpec, ModelSpec, Rope, read_spec
from hearth_export.tokenizer import TokenizerFiles, build
from hearth_export.writer import DataFile, publish, require_space, staged, write_file
from hearthd import __version__
from hearthd.store.variant import EXPORTER, Q8_0, SOURCE_FILE, VARIANT_FILE, RopeInfo, VariantInfo, read_source

GRAPH_FILE = "model.onnx"
INT8_KV_GRAPH_FILE = "model.q8_0.onnx"
DATA_FILE = "model.onnx.data"
TOKENIZER_FILE = "tokenizer.json"
EXTRA_BYTES = 32 << 20  # graph, tokenizer and slack


def convert(source: Path, digest: str, root: Path, goal: Goal, report: Progress) -> str:
    """Converts the GGUF file `source` into a new variant under `root`; the variant directory's name.

    No variant under `root` changes before the new one is whole and verified. Raises ExportError, which names `source`.
    """
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ExportError(f"the digest of {source} is given as {digest!r}, not as sha256: and 64 hex digits")
    with naming(source), open_gguf(source) as gguf:
        report("reading", 0, 0)
        spec = read_spec(gguf)
        if isinstance(spec, EncoderSpec):
            raise UnsupportedModel(f"{spec.architecture} is an encoder, which cannot be converted yet")
        decoder = Decoder(spec, gguf, goal, Graph(DATA_FILE))
        decoder.build()
        tokenizer = build(gguf)
        _check_vocabulary(tokenizer, spec)
        root.mkdir(parents=True, exist_ok=True)
        require_space(root, decoder.graph.data_bytes + EXTRA_BYTES)
        with staged(root) as stage:
            _write_weights(stage, decoder, gguf, report)
            _write_graphs(stage, decoder)
            write_file(stage / TOKENIZER_FILE, tokenizer.json.encode())
            _verify(stage, decoder, gguf, report)
            info = _variant_info(stage, digest, spec, decoder, tokenizer, parameter_count(gguf))
            write_file(stage / VARIANT_FILE, msgspec.json.encode(info))
            _write_source(stage, root, gguf)
            publish(stage, root / info.name)
    return info.name


def _check_vocabulary(tokenizer: TokenizerFiles, spec: ModelSpec) -> None:
    if tokenizer.num_tokens > spec.vocab_size:
        raise BadCheckpoint(
            f"tokenizer.ggml.tokens has {tokenizer.num_tokens} entries, "
            f"but token_embd.weight has only {spec.vocab_size} rows"
        )


def _write_weights(stage: Path, decoder: Decoder, gguf: GGUF, report: Progress) -> None:
    total, done = decoder.graph.data_bytes, 0
    report("quantizing", 0, total)
    with DataFile(stage / DATA_FILE, total) as file:
        for matrix in decoder.matrices:
            for num_bytes in matrix.stream(gguf, file):
                done += num_bytes
                report("quantizing", done, total)
        for vector in decoder.vectors:
            file.write(vector.region.offset, vector.read(gguf))
    report("quantizing", total, total)


def _write_graphs(stage: Path, decoder: Decoder) -> None:
    model = decoder.graph.model(f"hearth {__version__}")
    write_file(stage / GRAPH_FILE, model.SerializeToString())
    write_file(stage / INT8_KV_GRAPH_FILE, with_int8_cache(model, decoder.spec).SerializeToString())


def _verify(stage: Path, decoder: Decoder, gguf: GGUF, report: Progress) -> None:
    total, done = sum(matrix.num_bytes for matrix in decoder.matrices), 0
    report("verifying", 0, total)
    for file in (GRAPH_FILE, INT8_KV_GRAPH_FILE):
        verify.check_structure(stage / file, decoder.graph.data_bytes)
    check_attention(stage / GRAPH_FILE, stage / INT8_KV_GRAPH_FILE, decoder.spec)
    verify.check_embedding(stage, DATA_FILE, decoder.matrices[0], gguf)
    for num_bytes in verify.check_matrices(stage, DATA_FILE, decoder.matrices, gguf):
        done += num_bytes
        report("verifying", done, total)


def _write_source(stage: Path, root: Path, gguf: GGUF) -> None:
    """source.json, which stays when variants go; publishing makes it durable."""
    if read_source(root / SOURCE_FILE) is None:
        write_file(stage / SOURCE_FILE, msgspec.json.encode(describe(gguf)))
        (stage / SOURCE_FILE).replace(root / SOURCE_FILE)


def _variant_info(
    stage: Path, digest: str, spec: ModelSpec, decoder: Decoder, tokenizer: TokenizerFiles, num_parameters: int
) -> VariantInfo:
    return VariantInfo(
        name=_name(decoder.matrices),
        exporter=EXPORTER,
        source=digest,
        architecture=spec.architecture,
        files={file.name: file.stat().st_size for file in sorted(stage.iterdir())},
        holders=dict(sorted(decoder.holders.items())),
        context_length=spec.context_length,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        kv_graphs={Q8_0: INT8_KV_GRAPH_FILE},
        ropes=[_rope_info(rope) for rope in spec.ropes],
        layer_ropes=list(spec.layer_ropes),
        has_hidden=True,
        pooling=spec.pooling or "",
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
        add_bos=tokenizer.add_bos,
        add_eos=tokenizer.add_eos,
        parameter_count=num_parameters,
        weight_bytes=decoder.graph.data_bytes,
    )


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
