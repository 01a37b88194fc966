"""The common beginning of /api/generate and /api/chat: which model, with which options, for how long."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from hearthd import duration
from hearthd.api.services import Services
from hearthd.engine.frames import Generate, SamplingParams
from hearthd.errors import BadRequest, Forbidden, ModelNotFound
from hearthd.options import Options, merge
from hearthd.scheduler.lease import LoadOptions
from hearthd.store import names
from hearthd.store.contents import ModelContents
from hearthd.store.store import StoredModel

log = logging.getLogger(__name__)

MAX_TOP_LOGPROBS = 20
MAX_TOKEN_ID = (1 << 31) - 1

# options that this version takes without effect -> the value that asks for nothing
_WITHOUT_EFFECT: dict[str, Any] = {"tfs_z": 1.0, "typical_p": 1.0, "mirostat": 0, "penalize_newline": True}


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is here, and what its layers say."""

    asked: str  # the name as the client wrote it; answers repeat it
    model: StoredModel
    contents: ModelContents

    def options(self, requested: dict[str, Any]) -> Options:
        """Defaults under the model's parameters under the request's. OptionError names a wrong type."""
        options = merge(self.contents.params, requested)
        for name, neutral in _WITHOUT_EFFECT.items():
            if getattr(options, name) != neutral:
                log.warning("%s: option %s has no effect in this version", self.model.name.short, name)
        return options


def open_model(services: Services, asked: str) -> Opened:
    """The model that a request names. ModelNotFound, InvalidName, or Forbidden for one that runs elsewhere."""
    text, origin = names.split_origin(asked)
    if origin is names.Origin.CLOUD:
        raise Forbidden("ollama cloud is disabled: remote model is unavailable")
    if not text:
        raise ModelNotFound(asked)
    model = services.store.resolve(names.parse(text), asked)
    if model.config.remote_host:
        raise Forbidden("ollama cloud is disabled: remote model is unavailable")
    return Opened(asked, model, services.store.contents(model))


def keep_alive_ns(value: Any) -> int | None:
    """The request's keep_alive; None where it has none. BadRequest for what is no duration."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRequest(f"Unsupported type: '{type(value).__name__}'")
    try:
        return duration.keep_alive_ns(value)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def load_options(options: Options) -> LoadOptions:
    """Those options that the runner is started with."""
    return LoadOptions(num_ctx=options.num_ctx, num_batch=options.num_batch, num_thread=options.num_thread or None)


def generate_frame(
    options: Options, prompt: str, *, truncate: bool, context: list[int] | None = None, want_context: bool = False
) -> Generate:
    """What the runner is asked."""
    return Generate(
        id=0,
        prompt=prompt,
        context=context or [],
        sampling=_sampling(options),
        stop=list(options.stop),
        num_predict=options.num_predict,
        num_keep=options.num_keep,
        truncate=truncate,
        want_context=want_context,
    )


def _sampling(options: Options) -> SamplingParams:
    return SamplingParams(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repeat_penalty=options.repeat_penalty,
        repeat_last_n=options.repeat_last_n,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=options.seed,
    )


def check_top_logprobs(count: int) -> None:
    """BadRequest outside 0..20."""
    if not 0 <= count <= MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")


def check_capabilities(opened: Opened, verb: str, *, format: Any, think: bool | str | None, logprobs: bool) -> None:
    """BadRequest for what the model, or this version, cannot do."""
    if think:
        raise BadRequest(f'"{opened.asked}" does not support thinking')
    if "embedding" in opened.model.config.capabilities:
        raise BadRequest(f'"{opened.asked}" does not support {verb}')
    if format not in (None, ""):
        raise BadRequest("structured output (format) is not available in this version")
    if logprobs:
        raise BadRequest("logprobs are not available in this version")


def check_context(context: list[int]) -> None:
    """BadRequest for ids that no tokenizer has."""
    for token in context:
        if not 0 <= token <= MAX_TOKEN_ID:
            raise BadRequest(f"context holds {token}, which is no token id")
