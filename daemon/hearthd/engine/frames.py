"""Frames between the daemon and a runner.

On the socket a frame is a 4-byte little-endian length and a MessagePack body: a tagged, array-like
Struct of this file. The daemon sends `ToRunner`, the runner answers with `FromRunner`; answers carry
the id of the request they belong to. A closed socket ends the runner.
"""

from __future__ import annotations

import msgspec

MAX_FRAME_BYTES = 64 << 20
PREFIX_BYTES = 4


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Common encoding of all frames."""


class SamplingParams(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is chosen. A `temperature` of 0 is greedy; `seed` -1 draws a fresh one."""

    temperature: float = 0.8
    top_k: int = 40  # <= 0: the whole vocabulary
    top_p: float = 0.9  # 1.0: off
    min_p: float = 0.0
    repeat_penalty: float = 1.0  # 1.0: off
    repeat_last_n: int = 64  # tokens; 0: off, -1: num_ctx
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = -1
    tfs_z: float = 1.0  # 1.0: off
    typical_p: float = 1.0  # 1.0: off
    mirostat: int = 0  # 1, 2: that algorithm takes the place of top_k to min_p
    mirostat_tau: float = 5.0  # bits of surprise aimed at
    mirostat_eta: float = 0.1  # learning rate
    penalize_newline: bool = True  # False: penalties leave the newline's logit as it was


class Grammar(msgspec.Struct, frozen=True, array_like=True):
    """What the answer must be: JSON text that a schema accepts. Thoughts may precede it where `opening` is given."""

    schema: str  # a JSON Schema, as JSON text
    opening: str = ""  # the text that opens the model's thoughts; "": it has none
    closing: str = ""
    is_thinking: bool = False  # the prompt itself opens the thoughts


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One of the likeliest tokens of a step."""

    token: str
    logprob: float  # natural
    bytes: list[int]  # of the token's text, which alone need not be UTF-8


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """How likely the chosen token was before any sampler stage."""

    token: str
    logprob: float
    bytes: list[int]
    top: list[TopLogprob] = []  # likeliest first


class Load(Frame, frozen=True):
    """First frame of a runner's life: which variant, and the load-time options."""

    variant_dir: str
    num_ctx: int  # tokens, already clamped to the model's context length
    num_threads: int = 0  # 0: the runner decides
    num_batch: int = 512  # prompt tokens evaluated at once, at most
    num_gpu: int = -1  # decoder layers on an accelerator; -1: as many as fit, 0: none
    use_mmap: bool = True  # False: weights are read into memory of the process instead of mapped
    use_mlock: bool = False  # weights are kept from being swapped out or dropped
    vocab_only: bool = False  # no weights: only Tokenize is answered
    num_slots: int = 1  # sequences at a time; num_ctx is of each
    kv_type: str = ""  # how keys and values are held: "f32", "q8_0"; "": as the variant says
    prefix_dir: str = ""  # where evaluated prompts stay when the model leaves; "": nowhere
    prefix_bytes: int = 0  # at most, of all models together
    prompt: str = ""  # that will most likely come first: what is saved of it is read while the model opens
    limit_bytes: int = 0  # of memory, beyond which the process is killed where that can be had; 0: none


class Generate(Frame, frozen=True):
    """Continue `prompt`. Answered by Piece frames and one Done, or by Failed."""

    id: int
    prompt: str
    context: list[int] = []  # token ids whose text precedes the prompt
    sampling: SamplingParams = SamplingParams()
    stop: list[str] = []
    num_predict: int = -1  # new tokens; < 0: bounded by 10 * num_ctx
    num_keep: int = 4  # tokens kept at the front when the prompt is cut; < 0: the whole prompt
    truncate: bool = True  # False: a prompt beyond num_ctx fails instead of being cut
    want_context: bool = False  # answer Done.context
    shift: bool = True  # False: a full window ends the answer instead of dropping its older half
    grammar: Grammar | None = None
    top_logprobs: int = -1  # < 0: no Logprob in the pieces; else how many of the likeliest tokens each carries
    visible: list[str] = []  # special tokens whose text is part of the answer: marks of thoughts and tool calls


class Embed(Frame, frozen=True):
    """Turn texts into vectors. Answered by Embedded, or by Failed."""

    id: int
    texts: list[str | list[int]]  # or token ids, taken as they are
    truncate: bool = True  # False: a text beyond the model's length fails instead of being cut
    normalize: bool = True  # to a length of 1
    dimensions: int = 0  # keep only so many values, normalised again; 0, or more than there are: all


class Tokenize(Frame, frozen=True):
    """Answered by Tokens: the ids of `text`, special-token text recognised, with BOS where the model adds it."""

    id: int
    text: str


class Cancel(Frame, frozen=True):
    """Stop request `id` within one step.

    A Generate is then answered by Done with reason "cancel", an Embed not at all.
    """

    id: int


class Ping(Frame, frozen=True):
    """Answered at once by Pong, even while a step runs: the process lives."""

    id: int


class Trim(Frame, frozen=True):
    """Memory is short: give back what no running request needs. Answered by Trimmed after the step under way.

    `level` 1: what prompts left in the KV cache; 2: also what ONNX Runtime, the allocator and the mapped files hold.
    """

    id: int
    level: int = 1


class Leave(Frame, frozen=True):
    """The model is to be unloaded, no request is under way: save prompts where that is wanted, then exit."""


class Loaded(Frame, frozen=True):
    """The model serves."""

    provider: str  # "cpu"
    device: str  # for people: "2 threads, AVX-512"
    num_ctx: int
    size_bytes: int  # all memory the model needs at num_ctx: weights, KV, runner
    size_vram_bytes: int
    load_ns: int
    num_slots: int = 1
    resident_bytes: int = 0  # of the process now, as measured, without what its files can give again


class LoadFailure(Frame, frozen=True):
    """The model does not serve; the runner exits after this."""

    message: str


class Piece(Frame, frozen=True):
    """Text of one step, valid UTF-8, not empty unless it carries logprobs."""

    id: int
    text: str
    logprobs: list[Logprob] = []  # of the tokens chosen since the last piece, where the request wants them


class Done(Frame, frozen=True):
    """The last frame of a Generate."""

    id: int
    reason: str  # "stop", "length", "cancel"
    prompt_count: int  # tokens of the prompt, cached ones included
    cached_count: int  # of these, found in the KV cache
    prompt_ns: int
    eval_count: int  # tokens generated
    eval_ns: int
    context: list[int] = []


class Failed(Frame, frozen=True):
    """Request `id` failed; the runner lives on. `status` is the HTTP status that fits."""

    id: int
    message: str
    status: int = 500


class Tokens(Frame, frozen=True):
    """Answer to Tokenize."""

    id: int
    ids: list[int]


class Embedded(Frame, frozen=True):
    """Answer to Embed."""

    id: int
    vectors: bytes  # float32, little-endian, (len(texts), size) in the order of the texts
    size: int  # values of a vector
    prompt_count: int  # tokens evaluated, of all texts
    prompt_ns: int


class Pong(Frame, frozen=True):
    """Answer to Ping."""

    id: int
    busy_ns: int  # how long the step under way has taken so far; 0: none is


class Trimmed(Frame, frozen=True):
    """Answer to Trim."""

    id: int
    released_bytes: int  # by which the process's RSS has fallen


ToRunner = Load | Generate | Embed | Tokenize | Cancel | Ping | Trim | Leave
FromRunner = Loaded | LoadFailure | Piece | Done | Embedded | Failed | Tokens | Pong | Trimmed

encoder = msgspec.msgpack.Encoder()
to_runner_decoder: msgspec.msgpack.Decoder[ToRunner] = msgspec.msgpack.Decoder(ToRunner)
from_runner_decoder: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)


def pack(frame: Frame) -> bytes:
    """The frame's bytes as they go on the socket, length prefix included."""
    buffer = bytearray(PREFIX_BYTES)
    encoder.encode_into(frame, buffer, PREFIX_BYTES)
    buffer[:PREFIX_BYTES] = (len(buffer) - PREFIX_BYTES).to_bytes(PREFIX_BYTES, "little")
    return bytes(buffer)
