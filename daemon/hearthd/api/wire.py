"""Every request and response body of the API, and nothing else.

Fields with a default are left out of a response while they hold it; fields without one are always
there. Requests are filled by `binding.bind`, which applies the API's JSON rules first.
"""

from __future__ import annotations

from typing import Any

import msgspec

# --- requests -------------------------------------------------------------------------------------


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which function, and with what."""

    index: int
    name: str
    arguments: dict[str, Any]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function that the model wants called."""

    id: str = ""
    function: CalledFunction


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: str
    content: str
    thinking: str = ""
    tool_calls: list[ToolCall] = []


class MessageInput(msgspec.Struct, frozen=True):
    """A Message as clients send it: any field may be missing."""

    role: str = ""
    content: str = ""
    images: list[str] = []
    tool_calls: list[Any] = []
    thinking: str = ""
    tool_name: str = ""
    name: str = ""  # what some clients call tool_name
    tool_call_id: str = ""


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/generate."""

    model: str = ""
    name: str = ""
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] | None = None
    stream: bool = True
    raw: bool = False
    format: Any = None
    keep_alive: Any = None
    images: list[str] = []
    options: dict[str, Any] = {}
    think: bool | str | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/chat."""

    model: str = ""
    name: str = ""
    messages: list[MessageInput] = []
    stream: bool = True
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] = {}
    tools: list[Any] = []
    think: bool | str | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embed."""

    model: str = ""
    name: str = ""
    input: Any = None  # a string or a list of strings
    truncate: bool = True
    dimensions: int = 0
    keep_alive: Any = None
    options: dict[str, Any] = {}


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embeddings."""

    model: str = ""
    name: str = ""
    prompt: str = ""
    keep_alive: Any = None
    options: dict[str, Any] = {}


class OpenAIEmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/embeddings."""

    model: str = ""
    input: Any = None  # a string, a list of strings, token ids, or a list of lists of them
    encoding_format: str = ""  # "float", "base64"; "": float
    dimensions: int = 0


class ShowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/show."""

    model: str = ""
    name: str = ""
    system: str = ""
    template: str = ""
    verbose: bool = False
    options: dict[str, Any] = {}


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/copy."""

    source: str = ""
    destination: str = ""


class DeleteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """DELETE /api/delete."""

    model: str = ""
    name: str = ""


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/create: the `modelfile`/`path` form and the `from`/`files` form."""

    model: str = ""
    name: str = ""
    stream: bool = True
    modelfile: str = ""
    path: str = ""
    quantize: str = ""
    quantization: str = ""
    from_: str = msgspec.field(default="", name="from")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    draft_files: dict[str, str] = {}
    template: str = ""
    license: str | list[str] = []
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: list[MessageInput] = []
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: dict[str, Any] = {}
    draft_quantize: str = ""
    remote_host: str = ""


class PullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/pull."""

    model: str = ""
    name: str = ""
    insecure: bool = False
    stream: bool = True


class PushRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/push. `variants` and `source` are Hearth's own."""

    model: str = ""
    name: str = ""
    insecure: bool = False
    stream: bool = True
    variants: bool = False  # what was converted from it goes along
    source: bool = True  # the checkpoint goes along; false: variants only


# --- responses ------------------------------------------------------------------------------------


class Response(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Common encoding of all responses."""


class Failure(Response, frozen=True):
    """Any failure, whole or as the last line of a stream."""

    error: str


class Version(Response, frozen=True):
    """GET /api/version."""

    version: str


class CloudStatus(Response, frozen=True):
    """Whether remote models are served: never."""

    disabled: bool
    source: str


class Status(Response, frozen=True):
    """GET /api/status."""

    cloud: CloudStatus


class DebugInfo(Response, frozen=True):
    """What the model would have been given."""

    rendered_template: str
    image_count: int = 0


class TokenLogprob(Response, frozen=True):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] = []


class Logprob(TokenLogprob, frozen=True):
    """The chosen token, and the likeliest ones where they were asked for."""

    top_logprobs: list[TokenLogprob] = []


class GenerateChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """One streamed piece of /api/generate."""

    model: str
    created_at: str
    response: str
    done: bool
    thinking: str = ""
    logprobs: list[Logprob] = []


class GenerateResponse(Response, frozen=True):
    """The last object of /api/generate, or the only one."""

    model: str
    created_at: str
    response: str
    done: bool
    thinking: str = ""
    done_reason: str = ""
    context: list[int] = []
    total_duration: int = 0  # ns, as all durations here
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[Logprob] = []
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")


class ChatChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """One streamed piece of /api/chat."""

    model: str
    created_at: str
    message: Message
    done: bool
    logprobs: list[Logprob] = []


class ChatResponse(Response, frozen=True):
    """The last object of /api/chat, or the only one."""

    model: str
    created_at: str
    message: Message
    done: bool
    done_reason: str = ""
    total_duration: int = 0  # ns, as all durations here
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    logprobs: list[Logprob] = []
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")


class EmbedFigures(Response, frozen=True):
    """What /api/embed says beside the model's name and the vectors, which are written piece by piece."""

    total_duration: int = 0  # ns
    load_duration: int = 0
    prompt_eval_count: int = 0  # tokens of all texts


class OpenAIError(msgspec.Struct, frozen=True):
    """What went wrong, and what kind of error that is."""

    message: str
    type: str
    param: None = None
    code: None = None


class OpenAIFailure(msgspec.Struct, frozen=True):
    """Any failure of an endpoint under /v1/."""

    error: OpenAIError


class OpenAIUsage(msgspec.Struct, frozen=True):
    """What an answer under /v1/ took."""

    prompt_tokens: int
    total_tokens: int


class ModelDetails(Response, frozen=True):
    """What kind of model it is, for people."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


class ListModel(Response, frozen=True):
    """One model of GET /api/tags."""

    name: str
    model: str
    modified_at: str
    size: int  # bytes of all layers and the config
    digest: str
    details: ModelDetails
    capabilities: list[str] = []


class ListResponse(Response, frozen=True):
    """GET /api/tags."""

    models: list[ListModel]


class ProcessModel(Response, frozen=True):
    """One loaded model of GET /api/ps."""

    name: str
    model: str
    size: int  # bytes of memory
    digest: str
    details: ModelDetails
    expires_at: str
    size_vram: int
    context_length: int = 0


class ProcessResponse(Response, frozen=True):
    """GET /api/ps."""

    models: list[ProcessModel]


class Tensor(Response, frozen=True):
    """One tensor of the checkpoint."""

    name: str
    type: str
    shape: list[int]


class ShowResponse(Response, frozen=True, kw_only=True):
    """POST /api/show."""

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    details: ModelDetails
    messages: list[Message] = []
    model_info: dict[str, Any]
    tensors: list[Tensor] = []
    capabilities: list[str] = []
    modified_at: str
    requires: str = ""


class ProgressResponse(Response, frozen=True):
    """One line of /api/create, /api/pull or /api/push."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0
