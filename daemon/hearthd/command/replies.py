"""What the commands read of the server's answers. Every field may be missing."""

from __future__ import annotations

from typing import Any

import msgspec


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Any answer: a line of a stream may be an error instead."""

    error: str = ""


class Nothing(Reply, frozen=True):
    """An answer whose content is of no interest."""


class Version(Reply, frozen=True):
    """GET /api/version."""

    version: str = ""


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of model it is."""

    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model of /api/tags or /api/ps."""

    name: str = ""
    digest: str = ""
    size: int = 0  # bytes
    size_vram: int = 0  # bytes
    modified_at: str = ""
    expires_at: str = ""
    context_length: int = 0


class Models(Reply, frozen=True):
    """GET /api/tags, GET /api/ps."""

    models: list[Model] | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation."""

    role: str = ""
    content: str = ""
    thinking: str = ""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the checkpoint."""

    name: str = ""
    type: str = ""
    shape: list[int] = []


class Shown(Reply, frozen=True):
    """POST /api/show."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: Details = Details()
    messages: list[Message] | None = None
    model_info: dict[str, Any] | None = None
    projector_info: dict[str, Any] | None = None
    tensors: list[Tensor] | None = None
    capabilities: list[str] | None = None
    requires: str = ""


class Vectors(Reply, frozen=True):
    """POST /api/embed."""

    embeddings: list[list[float]] = []


class Step(Reply, frozen=True):
    """A line of /api/pull, /api/push and /api/create."""

    status: str = ""
    digest: str = ""
    total: int = 0  # bytes
    completed: int = 0  # bytes


class Chunk(Reply, frozen=True):
    """A line of /api/chat or /api/generate."""

    response: str = ""
    thinking: str = ""
    message: Message = Message()
    done: bool = False
    done_reason: str = ""
    total_duration: int = 0  # ns, as all durations here
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
