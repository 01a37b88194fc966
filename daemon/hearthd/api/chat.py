"""POST /api/chat."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hearthd.api import answer, opening
from hearthd.api.exchange import Exchange
from hearthd.api.opening import Opened
from hearthd.api.prompts import Template, template_of
from hearthd.api.services import Services
from hearthd.api.stamp import utc_now
from hearthd.api.wire import ChatChunk, ChatRequest, ChatResponse, DebugInfo, Message
from hearthd.engine.frames import Done
from hearthd.errors import BadRequest
from hearthd.prompt.render import Turn
from hearthd.prompt.truncate import fit
from hearthd.scheduler.lease import Lease

_SPARE_TOKENS = 8  # what tokenizing may add to a text of so many bytes: BOS, a leading space


async def chat(services: Services, exchange: Exchange) -> None:
    """Answer the last message; without messages, load or unload the model."""
    began_ns = time.perf_counter_ns()
    request = await exchange.bind(ChatRequest, services.config.max_body_bytes)
    opening.check_top_logprobs(request.top_logprobs)
    if not (request.model or request.name):
        raise BadRequest("model is required")
    keep_alive_ns = opening.keep_alive_ns(request.keep_alive)
    opened = opening.open_model(services, request.model or request.name)
    if not request.messages and keep_alive_ns == 0:
        services.scheduler.expire(opened.model)
        await exchange.json(_empty(opened, "unload"))
        return
    _check(request, opened)
    options = opened.options(request.options)
    exchange.watch()
    async with services.scheduler.lease(opened.model, opening.load_options(options), keep_alive_ns) as lease:
        if not request.messages:
            await exchange.json(_empty(opened, "load"))
            return
        prompt = await _prompt(template_of(services, opened), _turns(opened, request), lease, request.truncate)
        if request.debug_render_only:
            await exchange.json(_rendered(opened, prompt))
            return
        frame = opening.generate_frame(options, prompt, truncate=request.truncate)
        reply = _Reply(opened.asked, began_ns, lease)
        await answer.send(exchange, lease.runner.generate(frame), request.stream, reply.chunk, reply.final)


def _check(request: ChatRequest, opened: Opened) -> None:
    opening.check_capabilities(opened, "chat", format=request.format, think=request.think, logprobs=request.logprobs)
    if request.tools or any(message.tool_calls for message in request.messages):
        raise BadRequest(f"{opened.model.name.full} does not support tools")
    if any(message.images for message in request.messages):
        raise BadRequest(f'"{opened.asked}" does not support images')


def _turns(opened: Opened, request: ChatRequest) -> list[Turn]:
    """The model's own messages, then the request's; the model's system text first unless the request brings one."""
    asked = [Turn(message.role.lower(), message.content) for message in request.messages]
    own = [Turn(message.role, message.content) for message in opened.contents.messages]
    system = opened.contents.system if asked[0].role != "system" else ""
    return [*([Turn("system", system)] if system else []), *own, *asked]


async def _prompt(template: Template, turns: list[Turn], lease: Lease, truncate: bool) -> str:
    """The prompt of as much of the conversation as the context window holds."""

    async def count(kept: Sequence[Turn]) -> int:
        text = template.render(list(kept))
        most = len(text.encode()) + _SPARE_TOKENS
        return most if most <= lease.runner.loaded.num_ctx else len(await lease.runner.tokenize(text))

    kept = await fit(turns, count, lease.runner.loaded.num_ctx) if truncate else turns
    return template.render(list(kept))


class _Reply:
    """The wire objects of one answer."""

    __slots__ = ("_began_ns", "_lease", "_name")

    def __init__(self, name: str, began_ns: int, lease: Lease) -> None:
        self._name = name
        self._began_ns = began_ns
        self._lease = lease

    def chunk(self, text: str) -> ChatChunk:
        return ChatChunk(self._name, utc_now(), Message("assistant", text), False)

    def final(self, text: str, done: Done) -> ChatResponse:
        return ChatResponse(
            model=self._name,
            created_at=utc_now(),
            message=Message("assistant", text),
            done=True,
            done_reason=answer.done_reason(done),
            total_duration=time.perf_counter_ns() - self._began_ns,
            load_duration=self._lease.load_ns,
            prompt_eval_count=done.prompt_count,
            prompt_eval_duration=done.prompt_ns,
            eval_count=done.eval_count,
            eval_duration=done.eval_ns,
        )


def _empty(opened: Opened, reason: str) -> ChatResponse:
    message = Message("assistant", "")
    return ChatResponse(model=opened.asked, created_at=utc_now(), message=message, done=True, done_reason=reason)


def _rendered(opened: Opened, prompt: str) -> ChatResponse:
    info, message = DebugInfo(rendered_template=prompt), Message("assistant", "")
    return ChatResponse(model=opened.asked, created_at=utc_now(), message=message, done=False, debug_info=info)
