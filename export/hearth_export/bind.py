"""What the inputs and outputs of a graph are for, told from their names, types, shapes and order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import onnx
import onnxruntime as ort

from hearth_export.errors import UnsupportedModel
from hearthd.engine.bound import DTYPES
from hearthd.store.variant import IDS, MASK, NUM_LOGITS, POSITIONS, TYPES, USE_CACHE, Binding, State

ROLES = {
    "input_ids": IDS,
    "attention_mask": MASK,
    "position_ids": POSITIONS,
    "token_type_ids": TYPES,
    "use_cache_branch": USE_CACHE,
    "num_logits_to_keep": NUM_LOGITS,
    "logits_to_keep": NUM_LOGITS,
}
FOREIGN = {
    "encoder_hidden_states": "of an encoder with a decoder",
    "decoder_input_ids": "of an encoder with a decoder",
    "pixel_values": "of images",
    "input_features": "of sound",
    "input_values": "of sound",
    "inputs_embeds": "that another graph makes of tokens",
}
STATES_OF_TOKENS = ("last_hidden_state", "token_embeddings", "hidden_states")
VECTORS = ("sentence_embedding", "sentence_embeddings", "embeddings", "text_embeds")
FLOATS = ("float32", "float16")
_KEY, _VALUE = re.compile(r"key|(^|[._])k($|[._\d])"), re.compile(r"value|(^|[._])v($|[._\d])")


def bind(session: ort.InferenceSession, graph: onnx.GraphProto, heads: tuple[int, int], pad_id: int = 0) -> Binding:
    """The binding of an open graph; of a decoder where it has states.

    `heads`: how many heads of keys there are and how large each is, where the graph does not say (0: nobody does).
    UnsupportedModel names the input or output that nobody knows.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    roles = {name: ROLES[name] for name in inputs if name in ROLES}
    _refuse_unknown(inputs, roles)
    pasts = [value for name, value in inputs.items() if name not in roles]
    if not pasts:
        return Binding(inputs=roles, output=_encoder_output(session.get_outputs()), pad_id=pad_id)
    output, presents = _decoder_outputs(session.get_outputs())
    if len(pasts) != len(presents):
        raise UnsupportedModel(f"the graph has {len(pasts)} inputs, but {len(presents)} outputs for keys and values")
    ordered = zip(_ordered(pasts), _ordered(presents), strict=True)
    states = [State(past.name, present.name, _shape(past, heads), _dtype(past)) for past, present in ordered]
    return Binding(inputs=roles, output=output, states=states, in_place=_in_place(graph, states), pad_id=pad_id)


def _refuse_unknown(inputs: Mapping[str, ort.NodeArg], roles: Mapping[str, str]) -> None:
    for name, value in inputs.items():
        for foreign, what in FOREIGN.items():
            if name == foreign:
                raise UnsupportedModel(f"the graph's input {name} is {what}, which cannot be served")
        if name in roles:
            if value.type not in ("tensor(int64)", "tensor(int32)", "tensor(bool)"):
                raise UnsupportedModel(f"the graph's input {name} is of the type {value.type}")
        elif not (_KEY.search(name) or _VALUE.search(name) or "past" in name) or _dtype(value) not in FLOATS:
            raise UnsupportedModel(
                f"the graph's input {name[:128]} ({value.type}) is none that this version can fill; known are "
                f"{', '.join(ROLES)}, and keys and values of {' or '.join(FLOATS)}"
            )
    if IDS not in roles.values():
        raise UnsupportedModel(f"the graph has no input_ids, but {', '.join(inputs)[:256] or 'no inputs'}")


def _decoder_outputs(outputs: list[ort.NodeArg]) -> tuple[str, list[ort.NodeArg]]:
    """The name of the logits, and the new keys and values."""
    logits = [value for value in outputs if value.name == "logits"] or outputs[:1]
    others = [value for value in outputs if value.name != logits[0].name and _is_state(value.name)]
    if logits[0].name != "logits" or _dtype(logits[0]) not in FLOATS:
        raise UnsupportedModel(f"the graph's outputs {', '.join(value.name for value in outputs)[:256]} have no logits")
    return "logits", others


def _is_state(name: str) -> bool:
    return bool("present" in name or "past" in name or _KEY.search(name) or _VALUE.search(name))


def _encoder_output(outputs: list[ort.NodeArg]) -> str:
    names = [value.name for value in outputs]
    for wanted in (*VECTORS, *STATES_OF_TOKENS):
        if wanted in names:
            return wanted
    if names == ["logits"]:
        raise UnsupportedModel(
            "the graph gives logits but takes no keys and values: a decoder has to be exported with its cache "
            "(text-generation-with-past), and classifiers cannot be served"
        )
    raise UnsupportedModel(f"the graph's outputs are {', '.join(names)[:256]}; none of them is known to be embeddings")


def _ordered(values: Iterable[ort.NodeArg]) -> list[ort.NodeArg]:
    """By layer, keys first; as listed where names do not tell."""

    def place(item: tuple[int, ort.NodeArg]) -> tuple[int, int, int]:
        index, value = item
        numbers = re.findall(r"\d+", value.name)
        is_value = bool(_VALUE.search(re.sub(r"past_key_values?", "", value.name)))
        return (int(numbers[0]) if numbers else 0, int(is_value), index)

    return [value for _, value in sorted(enumerate(values), key=place)]


def _shape(past: ort.NodeArg, heads: tuple[int, int]) -> list[int]:
    """Of one sequence; -1 where positions are counted."""
    sizes = [size if isinstance(size, int) and size > 0 else 0 for size in past.shape[1:]]
    if len(sizes) == 3:  # heads, positions, size
        sizes[0] = sizes[0] or heads[0]
        sizes[2] = sizes[2] or heads[1]
    open_axes = [axis for axis, size in enumerate(sizes) if not size]
    if len(open_axes) != 1 or (past.shape and isinstance(past.shape[0], int)):
        raise UnsupportedModel(
            f"the graph's input {past.name[:128]} has the shape {past.shape}, of which neither is told where positions "
            "are counted; graphs of one fixed length cannot be served"
        )
    sizes[open_axes[0]] = -1
    return sizes


def _dtype(value: ort.NodeArg) -> str:
    return DTYPES.get(value.type, str(value.type))


def _in_place(graph: onnx.GraphProto, states: list[State]) -> bool:
    """Whether every layer's keys and values go through one GroupQueryAttention, and nowhere else."""
    pairs = {
        pair
        for node in graph.node
        if node.op_type == "GroupQueryAttention"
        for pair in zip(node.input[3:5], node.output[1:3], strict=False)
    }
    shapes = {tuple(state.shape) for state in states}
    uses = Counter(name for node in graph.node for name in node.input)
    return len(shapes) == 1 and all(
        (state.past, state.present) in pairs and uses[state.past] == 1 and state.shape[1] == -1 for state in states
    )
