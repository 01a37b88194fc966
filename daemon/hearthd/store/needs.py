"""What memory a variant needs, known before it is loaded. One formula for the daemon, which plans, and the runner."""

from __future__ import annotations

from dataclasses import dataclass

from hearthd.store.variant import VariantInfo

# Measured with ONNX Runtime 1.32 on x86-64 and Linux 6.18; tests/hearthd/store/test_needs.py measures again, and the
# daemon corrects by what loads really take.
RUNNER_BYTES = 52 << 20  # interpreter, NumPy, ONNX Runtime and the tokenizer's code
TOKENIZER_FACTOR = 16  # of the size of tokenizer.json: its tables in memory
PREPACKED_FACTOR = 1.05  # of the weights: as the kernels want them
GRAPH_BYTES_PER_LAYER = 100 << 10  # nodes and bound buffers
CHUNK_TOKENS = 128  # evaluated in one step at most
STEP_BUFFERS = 8  # of (chunk, hidden) float32 that are alive at once, the wide ones of the feed-forward part included
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes by what they are for."""

    runner_bytes: int  # the process without a model, and the vocabulary
    weight_bytes: int
    kv_bytes: int  # with every slot full
    table_bytes: int  # cos and sin
    work_bytes: int  # activations of a prefill step, logits

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
    vocab_only: bool = False,
) -> Needs:
    """What a runner needs for the variant, `num_ctx` tokens in each of `num_slots` slots held as `kv_type`."""
    runner_bytes = RUNNER_BYTES + TOKENIZER_FACTOR * info.files.get(info.tokenizer, 0)
    if vocab_only:
        return Needs(runner_bytes, 0, 0, 0, 0)
    chunk = min(num_batch, CHUNK_TOKENS)
    return Needs(
        runner_bytes=runner_bytes,
        weight_bytes=int(PREPACKED_FACTOR * info.weight_bytes) + GRAPH_BYTES_PER_LAYER * info.num_layers,
        kv_bytes=num_slots * num_ctx * info.kv_bytes(kv_type),
        table_bytes=2 * num_ctx * len(info.rope_inv_freq) * FLOAT_BYTES,
        work_bytes=(STEP_BUFFERS * chunk * info.hidden_size + num_slots * info.vocab_size) * FLOAT_BYTES,
    )
