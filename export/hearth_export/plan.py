"""What a conversion would make, told without making it: files, sizes, memory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hearth_export.checkpoint import open_checkpoint
from hearth_export.errors import naming
from hearth_export.pipeline import (
    DATA_FILE,
    GRAPH_FILE,
    INT8_KV_GRAPH_FILE,
    TOKENIZER_FILE,
    planned_weights,
    variant_info,
)
from hearth_export.precision import Goal
from hearth_export.source import describe
from hearth_export.spec import EncoderSpec, read_spec
from hearth_export.tokenizer import build
from hearthd.store.needs import needs
from hearthd.store.variant import Q8_0

CONTEXT = 4096  # tokens, the daemon's default


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A variant that could be made."""

    variant: str  # "cpu-int4"
    architecture: str
    kind: str  # "decoder" or "encoder"
    format: str  # of the source: "gguf", "safetensors"
    file_type: str  # of the source: "Q4_K_M"
    parameter_count: int
    hidden_size: int
    holders: dict[str, str]  # block type -> how it is held
    files: dict[str, int]  # name -> bytes
    num_bytes: int  # of all files
    num_ctx: int  # tokens, for the figures below
    loaded_bytes: int  # memory of a runner before its first request
    total_bytes: int  # memory of a runner whose window is full


def planned(source: Path, goal: Goal) -> Planned:
    """The variant that converting `source`, a file or a directory, would make. Raises ExportError."""
    with naming(source), open_checkpoint(source) as checkpoint:
        spec = read_spec(checkpoint)
        weights = planned_weights(spec, checkpoint, goal)
        tokenizer = build(checkpoint)
        about = describe(checkpoint)
        graph_bytes = len(weights.graph.model("hearth").SerializeToString())
        files = {GRAPH_FILE: graph_bytes, DATA_FILE: weights.graph.data_bytes}
        files[TOKENIZER_FILE] = len(tokenizer.json)
        is_decoder = not isinstance(spec, EncoderSpec)
        if is_decoder:
            files[INT8_KV_GRAPH_FILE] = graph_bytes
        info = variant_info(files, "", spec, weights, tokenizer)
    kv_graphs = {Q8_0: INT8_KV_GRAPH_FILE} if is_decoder else {}
    info = msgspec.structs.replace(info, parameter_count=about.parameter_count, kv_graphs=kv_graphs)
    num_ctx = min(CONTEXT, info.context_length)
    memory = needs(info, num_ctx=num_ctx)
    return Planned(
        variant=info.name,
        architecture=info.architecture,
        kind=info.kind,
        format=about.format,
        file_type=about.file_type,
        parameter_count=about.parameter_count,
        hidden_size=info.hidden_size,
        holders=info.holders,
        files=files,
        num_bytes=sum(files.values()),
        num_ctx=num_ctx,
        loaded_bytes=memory.loaded_bytes,
        total_bytes=memory.total_bytes,
    )
