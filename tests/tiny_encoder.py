"""A tiny encoder variant, made by hand: a vector is the mean of its tokens' rows in a table of random numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from hearthd.store import variant
from tests.variant_info import variant_info

HIDDEN_SIZE = 8
CONTEXT_LENGTH = 64
CLS, SEP = 256, 257


def write_tiny_encoder(directory: Path) -> NDArray[np.float32]:
    """Writes the variant; its table (258, HIDDEN_SIZE). Tokens are bytes between [CLS] and [SEP]."""
    directory.mkdir(parents=True, exist_ok=True)
    table = np.random.default_rng(5).standard_normal((SEP + 1, HIDDEN_SIZE), np.float32)
    onnx.save(_model(table), str(directory / "model.onnx"))
    _tokenizer().save(str(directory / "tokenizer.json"))
    info = variant_info(
        kind=variant.ENCODER,
        files={name: (directory / name).stat().st_size for name in ("model.onnx", "tokenizer.json")},
        context_length=CONTEXT_LENGTH,
        vocab_size=len(table),
        hidden_size=HIDDEN_SIZE,
        pooling="mean",
    )
    (directory / variant.VARIANT_FILE).write_bytes(msgspec.json.encode(info))
    return table


def _model(table: NDArray[np.float32]) -> onnx.ModelProto:
    constants = {"table": table, "zero": np.array(0, np.int64), "one": np.array(1, np.int64), "two": np.array([2])}
    constants |= {"last": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Gather", ["table", variant.INPUT_IDS], ["rows"]),  # (B, S, H)
        helper.make_node("Shape", [variant.INPUT_IDS], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["longest"]),
        helper.make_node("Range", ["zero", "longest", "one"], ["places"]),
        helper.make_node("Cast", [variant.LENGTHS], ["lengths64"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["lengths64", "last"], ["column"]),
        helper.make_node("Less", ["places", "column"], ["present"]),  # (B, S)
        helper.make_node("Cast", ["present"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "two"], ["weights3"]),
        helper.make_node("Mul", ["rows", "weights3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "last"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["column"], ["divisor"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["sum", "divisor"], [variant.EMBEDDINGS]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(variant.INPUT_IDS, TensorProto.INT64, ["B", "S"]),
            helper.make_tensor_value_info(variant.LENGTHS, TensorProto.INT32, ["B"]),
        ],
        [helper.make_tensor_value_info(variant.EMBEDDINGS, TensorProto.FLOAT, ["B", HIDDEN_SIZE])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    file = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    file.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    file.decoder = decoders.ByteLevel()
    file.add_special_tokens(["[CLS]", "[SEP]"])
    ends = [("[CLS]", CLS), ("[SEP]", SEP)]
    file.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return file
