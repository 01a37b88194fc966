"""The common beginning of /api/generate and /api/chat: which model, with which options, for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hearthd import duration
from hearthd.api.services import Services
from hearthd.engine.frames import Generate, Grammar, SamplingParams
from hearthd.errors import BadRequest, Forbidden, ModelNotFound
from hearthd.options import Options, merge
from hearthd.scheduler.lease import LoadOptions
from hearthd.store import names
from hearthd.store.contents import ModelContents
from hearthd.store.store import StoredModel

MAX_TOP_LOGPROBS = 20
MAX_TOKEN_ID = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is here, and what its layers say."""

    asked: str  # the name as the client wrote it; answers repeat it
    model: StoredModel
    contents: ModelContents

    def options(self, requested: dict[str, Any]) -> Options:
        """Defaults under the model's parameters under the request's. OptionError names a wrong type."""
        return merge(self.contents.params, requested)


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
    return LoadOptions(**{name: getattr(options, name) for name in LoadOptions.__struct_fields__})


def generate_frame(
    options: Options,
    prompt: str,
    *,
    truncate: bool,
    shift: bool,
    context: list[int] | None = None,
    want_context: bool = False,
    grammar: Grammar | None = None,
    top_logprobs: int = -1,
    visible: Sequence[str] = (),
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
        shift=shift,
        grammar=grammar,
        top_logprobs=top_logprobs,
        visible=list(visible),
    )


def _sampling(options: Options) -> SamplingParams:
    return SamplingParams(**{name: getattr(options, name) for name in SamplingParams.__struct_fields__})


def check_top_logprobs(count: int) -> None:
    """BadRequest outside 0..20."""
    if not 0 <= count <= MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")


def check_verb(opened: Opened, verb: str, can: Sequence[str]) -> None:
    """BadRequest where the model makes no text."""
    if "completion" not in can:
        raise BadRequest(f'"{opened.asked}" does not support {verb}')


def check_context(context: list[int]) -> None:
    """BadRequest for ids that no tokenizer has."""
    for token in context:
        if not 0 <= token <= MAX_TOKEN_ID:
            raise BadRequest(f"context holds {token}, which is no token id")
