"""What memory a variant needs, known before it is loaded. One formula for the daemon, which plans, and the runner."""

from __future__ import annotations

from dataclasses import dataclass

from hearthd.store.variant import ENCODER, VariantInfo

# Measured on x86-64 (AVX-512) with Linux 6.18, glibc, Python 3.11 and ONNX Runtime 1.32: a model of next to nothing,
# and SmolLM2-135M as int4 and int8 with 512 to 8192 tokens in 1 and 4 slots. tests/hearthd/store/test_needs.py measures
# again; the daemon corrects by what loads really take.
RUNNER_BYTES = 34 << 20  # interpreter, NumPy, ONNX Runtime, when pages that their files can give again were dropped
CODE_BYTES = 14 << 20  # of these pages, those that come back with the first request
TOKENIZER_FACTOR = 9  # of the size of tokenizer.json: its tables
GRAPH_BYTES, LAYER_BYTES = 1 << 20, 25 << 10  # ONNX Runtime's own, of a graph and of each decoder layer
BLOCK = 32  # weights that share a scale
SUM_BYTES = 4  # that the kernels add to each block: the sum of its quantized values
CHUNK_TOKENS = 128  # evaluated in one step at most
# of a step of an encoder: what it takes anyhow; (tokens, hidden) float32, more of them where texts are cut in windows;
# scores, (heads, tokens, tokens seen) float32
ENCODER_STEP_BYTES, ENCODER_BUFFERS, WINDOW_BUFFERS, SCORE_BUFFERS = 28 << 20, 20, 8, 1
STEP_BYTES, STEP_BUFFERS = 4 << 20, 50  # a step's scratch memory: what it takes anyhow, and (chunk, hidden) float32
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes by what they are for."""

    runner_bytes: int  # the process without a model, and the vocabulary
    weight_bytes: int  # as the kernels want them
    table_bytes: int  # cos and sin
    kv_bytes: int  # with every slot full
    work_bytes: int  # what comes with use: code, scratch memory of a step, logits

    @property
    def loaded_bytes(self) -> int:
        """Resident before the first request."""
        return self.runner_bytes + self.weight_bytes + self.table_bytes

    @property
    def total_bytes(self) -> int:
        """Resident when all slots are full."""
        return self.loaded_bytes + self.kv_bytes + self.work_bytes


def needs(
    info: VariantInfo,
    *,
    num_ctx: int,
    num_slots: int = 1,
    kv_type: str = "",
    num_batch: int = CHUNK_TOKENS,
    pinned: bool = False,
    vocab_only: bool = False,
) -> Needs:
    """What a runner needs for the variant, `num_ctx` tokens in each of `num_slots` slots held as `kv_type`.

    `pinned`: nothing of it may be left in files, as use_mlock and no use_mmap want it.
    """
    runner_bytes = RUNNER_BYTES + TOKENIZER_FACTOR * info.files.get(info.tokenizer, 0)
    if vocab_only:
        return Needs(runner_bytes, 0, 0, 0, CODE_BYTES)
    if info.kind == ENCODER:
        return _encoder_needs(info, runner_bytes, num_ctx=num_ctx, num_batch=num_batch, pinned=pinned)
    if info.binding is not None:
        return _bound_needs(info, runner_bytes, num_ctx=num_ctx, num_slots=num_slots, num_batch=num_batch)
    step_bytes = STEP_BYTES + STEP_BUFFERS * min(num_batch, CHUNK_TOKENS) * info.hidden_size * FLOAT_BYTES
    return Needs(
        runner_bytes=runner_bytes,
        weight_bytes=_weight_bytes(info) + (_embedding_bytes(info) + CODE_BYTES if pinned else 0),
        table_bytes=2 * num_ctx * sum(len(rope.inv_freq) for rope in info.ropes) * FLOAT_BYTES,
        kv_bytes=num_slots * num_ctx * info.kv_bytes(kv_type),
        work_bytes=CODE_BYTES + step_bytes + num_slots * info.vocab_size * FLOAT_BYTES,
    )


def _bound_needs(info: VariantInfo, runner_bytes: int, *, num_ctx: int, num_slots: int, num_batch: int) -> Needs:
    """A graph that was not made here: every token of a step has logits, and a step that is not in place has keys and
    values of its sequence twice."""
    chunk = min(num_batch, CHUNK_TOKENS)
    step_bytes = STEP_BYTES + STEP_BUFFERS * chunk * info.hidden_size * FLOAT_BYTES
    logits_bytes = (chunk + num_slots) * info.vocab_size * FLOAT_BYTES
    return Needs(
        runner_bytes=runner_bytes,
        weight_bytes=_weight_bytes(info),
        table_bytes=0,
        kv_bytes=(num_slots + 1) * num_ctx * info.kv_bytes(),
        work_bytes=CODE_BYTES + step_bytes + logits_bytes,
    )


def _encoder_needs(info: VariantInfo, runner_bytes: int, *, num_ctx: int, num_batch: int, pinned: bool) -> Needs:
    """An encoder keeps nothing between steps; a step reads `num_batch` tokens, or one text that is longer.

    Its table of tokens is read from its file, a row at a time. A long text's scores are made some after others, or for
    one window after the other; a graph that was not made here may make all at once.
    """
    num_seen = num_ctx if info.binding is not None else min(num_ctx, max(num_batch, 2 * info.window))
    num_buffers = ENCODER_BUFFERS + (WINDOW_BUFFERS if info.window else 0)
    states_bytes = num_buffers * max(num_batch, num_ctx) * info.hidden_size * FLOAT_BYTES
    scores_bytes = SCORE_BUFFERS * info.num_heads * min(num_ctx, num_seen) * num_seen * FLOAT_BYTES
    table_bytes = _embedding_bytes(info)
    return Needs(
        runner_bytes=runner_bytes,
        weight_bytes=max(0, _weight_bytes(info) - table_bytes) + (table_bytes + CODE_BYTES if pinned else 0),
        table_bytes=0,
        kv_bytes=0,
        work_bytes=CODE_BYTES + ENCODER_STEP_BYTES + states_bytes + scores_bytes,
    )


def _weight_bytes(info: VariantInfo) -> int:
    sums_bytes = info.parameter_count // BLOCK * SUM_BYTES
    return info.weight_bytes + sums_bytes + GRAPH_BYTES + LAYER_BYTES * info.num_layers


def _embedding_bytes(info: VariantInfo) -> int:
    """The table that tokens are looked up in, 8 bits a value and a scale a block: it stays in its file otherwise."""
    return info.vocab_size * info.hidden_size * (BLOCK + FLOAT_BYTES) // BLOCK
