"""Repositories that hold tiny ONNX graphs with random weights, as exporters other than ours write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from tests.tiny import CHAT_TEMPLATE, CONTROL_TOKENS, MERGES, tokens

Floats = NDArray[np.float32]
VOCAB, HIDDEN, HEADS, HEAD_DIM, POSITIONS = len(tokens()), 32, 2, 16, 64
CONFIG: dict[str, Any] = {
    "model_type": "tiny",
    "architectures": ["TinyForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADER = '<ir_version: 9, opset_import: ["": 18, "com.microsoft": 1]>'

# attention of q, k and v (B, S, HIDDEN) over past_k and past_v (B, HEADS, P, HEAD_DIM); `allowed` (B, 1, S, T)
CONCATENATED = f"""
  heads = Constant <value_ints = [0, 0, {HEADS}, {HEAD_DIM}]> ()
  qs = Reshape(q, heads)  ks = Reshape(k, heads)  vs = Reshape(v, heads)
  qt = Transpose <perm = [0, 2, 1, 3]> (qs)
  kt = Transpose <perm = [0, 2, 1, 3]> (ks)
  vt = Transpose <perm = [0, 2, 1, 3]> (vs)
  NEW_K = Concat <axis = 2> (PAST_K, kt)
  NEW_V = Concat <axis = 2> (PAST_V, vt)
  across = Transpose <perm = [0, 1, 3, 2]> (NEW_K)
  products = MatMul(qt, across)
  scale = Constant <value_float = 0.25> ()
  scaled = Mul(products, scale)
  mask_shape = Shape(attention_mask)
  one = Constant <value_ints = [1]> ()
  zero = Constant <value_int = 0> ()
  by = Constant <value_int = 1> ()
  total = Gather(mask_shape, by)
  indices = Range(zero, total, by)
  row_axis = Constant <value_ints = [1, 3]> ()
  rows = Unsqueeze(AT, row_axis)
  is_past = LessOrEqual(indices, rows)
  column_axis = Constant <value_ints = [1, 2]> ()
  columns = Unsqueeze(attention_mask, column_axis)
  is_real = Cast <to = 9> (columns)
  allowed = And(is_past, is_real)
  never = Constant <value_float = -1e9> ()
  masked = Where(allowed, scaled, never)
  shares = Softmax <axis = -1> (masked)
  mixed = MatMul(shares, NEW_V)
  back = Transpose <perm = [0, 2, 1, 3]> (mixed)
  flat = Constant <value_ints = [0, 0, {HIDDEN}]> ()
  attended = Reshape(back, flat)
"""
GROUPED = f"""
  axis = Constant <value_ints = [1]> ()
  one_more = ReduceSum <keepdims = 0> (attention_mask, axis)
  one = Constant <value_int = 1> ()
  last = Sub(one_more, one)
  seqlens = Cast <to = 6> (last)
  mask_shape = Shape(attention_mask)
  length = Gather(mask_shape, one)
  total = Cast <to = 6> (length)
  attended, NEW_K, NEW_V = com.microsoft.GroupQueryAttention <num_heads = {HEADS}, kv_num_heads = {HEADS},
    scale = 0.25> (q, k, v, PAST_K, PAST_V, seqlens, total)
"""


def weights(seed: int = 3) -> dict[str, Floats]:
    """All matrices. The head knows printable ASCII only, so that greedy text is that."""
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Floats:
        return generator.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)

    found = {name: matrix(HIDDEN, HIDDEN) for name in ("wq", "wk", "wv", "wo")}
    found["embed"] = generator.standard_normal((VOCAB, HIDDEN), np.float32)
    found["pos"] = generator.standard_normal((POSITIONS, HIDDEN), np.float32)
    head = matrix(HIDDEN, VOCAB)
    printable = slice(len(CONTROL_TOKENS) + 33, len(CONTROL_TOKENS) + 127)
    kept = head[:, printable].copy()
    head[:] = 0
    head[:, printable] = kept
    return found | {"head": 4 * head}


def decoder(
    *,
    grouped: bool = False,
    positions: bool = True,
    past: tuple[str, str] = ("past_key_values.0.key", "past_key_values.0.value"),
    present: tuple[str, str] = ("present.0.key", "present.0.value"),
    reads_past: bool = True,
    extra_input: str = "",
    length: str = "P",
    seed: int = 3,
) -> onnx.ModelProto:
    """A decoder of one layer. `positions`: it takes position_ids, else it counts them from its past."""
    held = f"[B,{HEADS},{length},{HEAD_DIM}]"
    inputs = [f'float{held} "{name}"' for name in past]
    asked = "int64[B,S] position_ids, " if positions else ""
    counted = "AT = Identity(position_ids)"
    if not positions:
        counted = (
            "ids_shape = Shape(input_ids) num_axis = Constant <value_int = 1> () num_new = Gather(ids_shape, num_axis) "
            "past_shape = Shape(PAST_K) past_axis = Constant <value_int = 2> () first = Gather(past_shape, past_axis) "
            "nought = Constant <value_int = 0> () fresh = Range(nought, num_new, num_axis) ahead = Add(fresh, first) "
            "front = Constant <value_ints = [0]> () AT = Unsqueeze(ahead, front)"
        )
    body = GROUPED if grouped else CONCATENATED
    if not reads_past:
        zeros = "nothing = Constant <value_float = 0.0> () none_k = Mul(PAST_K, nothing) none_v = Mul(PAST_V, nothing)"
        body = zeros + body.replace("(PAST_K, kt)", "(none_k, kt)").replace("(PAST_V, vt)", "(none_v, vt)")
    text = f"""{HEADER} tiny (int64[B,S] input_ids, int64[B,T] attention_mask, {asked}{extra_input}{", ".join(inputs)})
    => (float[B,S,{VOCAB}] logits, float{held} "{present[0]}", float{held} "{present[1]}") {{
      {counted}
      found = Gather(embed, input_ids)  places = Gather(pos, AT)  x = Add(found, places)
      q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
      {body}
      mixed_in = MatMul(attended, wo)  y = Add(x, mixed_in)  logits = MatMul(y, head)
    }}"""
    for mark, name in zip(("PAST_K", "PAST_V", "NEW_K", "NEW_V"), (*past, *present), strict=True):
        text = text.replace(mark, f'"{name}"')
    return _with_weights(parser.parse_model(text), weights(seed))


def encoder(output: str = "last_hidden_state", seed: int = 3) -> onnx.ModelProto:
    """States of tokens, each of which depends on the mean of all that the mask lets through."""
    text = f"""{HEADER} tiny (int64[B,S] input_ids, int64[B,S] attention_mask, int64[B,S] token_type_ids)
    => (float[B,S,{HIDDEN}] {output}) {{
      found = Gather(embed, input_ids)
      types = Cast <to = 1> (token_type_ids)
      axis = Constant <value_ints = [2]> ()
      kinds = Unsqueeze(types, axis)
      x = Add(found, kinds)
      real = Cast <to = 1> (attention_mask)
      own = Unsqueeze(real, axis)
      kept = Mul(x, own)
      along = Constant <value_ints = [1]> ()
      sum = ReduceSum(kept, along)
      projected = MatMul(sum, wq)
      {output} = Add(x, projected)
    }}"""
    return _with_weights(parser.parse_model(text), weights(seed))


def expected_logits(ids: list[int], seed: int = 3) -> Floats:
    """(len(ids), VOCAB) of the decoder, in NumPy."""
    held = weights(seed)
    x = held["embed"][ids] + held["pos"][: len(ids)]
    q, k, v = ((x @ held[name]).reshape(-1, HEADS, HEAD_DIM).swapaxes(0, 1) for name in ("wq", "wk", "wv"))
    scores = q @ k.swapaxes(1, 2) * 0.25
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    attended = (shares @ v).swapaxes(0, 1).reshape(len(ids), HIDDEN)
    logits: Floats = ((x + attended @ held["wo"]) @ held["head"]).astype(np.float32)
    return logits


def expected_states(ids: list[int], seed: int = 3) -> Floats:
    """(len(ids), HIDDEN) of the encoder, in NumPy."""
    held = weights(seed)
    x = held["embed"][ids]
    states: Floats = x + x.sum(0) @ held["wq"]
    return states


def write_repository(path: Path, graphs: dict[str, onnx.ModelProto], config: dict[str, Any] | None = None) -> Path:
    """The graphs by relative name, config.json and a tokenizer."""
    path.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(graph, str(path / name))
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    write_tokenizer_files(path)
    return path


def write_tokenizer_files(path: Path) -> None:
    """tokenizer.json and tokenizer_config.json of the vocabulary of all tiny models."""
    added = [
        {"id": index, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for index, text in enumerate(CONTROL_TOKENS)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {token: index for index, token in enumerate(tokens())}
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": list(MERGES)},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(document))
    about = {"bos_token": CONTROL_TOKENS[1], "eos_token": CONTROL_TOKENS[2], "chat_template": CHAT_TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(about))


def _with_weights(model: onnx.ModelProto, values: dict[str, Floats]) -> onnx.ModelProto:
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in sorted(used & set(values)))
    return model
