"""POST /api/generate."""

from __future__ import annotations

import time

from hearthd.api import answer, opening
from hearthd.api.exchange import Exchange
from hearthd.api.opening import Opened
from hearthd.api.prompts import template_of
from hearthd.api.services import Services
from hearthd.api.stamp import utc_now
from hearthd.api.wire import DebugInfo, GenerateChunk, GenerateRequest, GenerateResponse
from hearthd.engine.frames import Done
from hearthd.errors import BadRequest
from hearthd.prompt.render import Turn
from hearthd.scheduler.lease import Lease


async def generate(services: Services, exchange: Exchange) -> None:
    """Continue a prompt; without one, load or unload the model."""
    began_ns = time.perf_counter_ns()
    request = await exchange.bind(GenerateRequest, services.config.max_body_bytes)
    opening.check_top_logprobs(request.top_logprobs)
    keep_alive_ns = opening.keep_alive_ns(request.keep_alive)
    opened = opening.open_model(services, request.model or request.name)
    if not request.prompt and keep_alive_ns == 0:
        services.scheduler.expire(opened.model)
        await exchange.json(_empty(opened, "unload"))
        return
    _check(request, opened)
    options = opened.options(request.options)
    exchange.watch()
    async with services.scheduler.lease(opened.model, opening.load_options(options), keep_alive_ns) as lease:
        if not request.prompt:
            await exchange.json(_empty(opened, "load"))
            return
        prompt = request.prompt if request.raw else _prompt(services, opened, request)
        if request.debug_render_only:
            await exchange.json(_rendered(opened, prompt))
            return
        frame = opening.generate_frame(
            options, prompt, truncate=request.truncate, context=request.context, want_context=not request.raw
        )
        reply = _Reply(opened.asked, began_ns, lease)
        await answer.send(exchange, lease.runner.generate(frame), request.stream, reply.chunk, reply.final)


def _check(request: GenerateRequest, opened: Opened) -> None:
    if request.raw and (request.template or request.system or request.context):
        raise BadRequest("raw mode does not support template, system, or context")
    opening.check_capabilities(
        opened, "generate", format=request.format, think=request.think, logprobs=request.logprobs
    )
    if request.suffix:
        raise BadRequest(f"{opened.model.name.full} does not support insert")
    if request.template:
        raise BadRequest("a template in the request is not available in this version")
    if request.images:
        raise BadRequest(f'"{opened.asked}" does not support images')
    opening.check_context(request.context or [])


def _prompt(services: Services, opened: Opened, request: GenerateRequest) -> str:
    """System, the model's own messages unless a context takes their place, and the prompt."""
    system = request.system or opened.contents.system
    turns = [Turn("system", system)] if system else []
    if request.context is None:
        turns += [Turn(message.role, message.content) for message in opened.contents.messages]
    return template_of(services, opened).render([*turns, Turn("user", request.prompt)])


class _Reply:
    """The wire objects of one answer."""

    __slots__ = ("_began_ns", "_lease", "_name")

    def __init__(self, name: str, began_ns: int, lease: Lease) -> None:
        self._name = name
        self._began_ns = began_ns
        self._lease = lease

    def chunk(self, text: str) -> GenerateChunk:
        return GenerateChunk(self._name, utc_now(), text, False)

    def final(self, text: str, done: Done) -> GenerateResponse:
        return GenerateResponse(
            model=self._name,
            created_at=utc_now(),
            response=text,
            done=True,
            done_reason=answer.done_reason(done),
            context=done.context,
            total_duration=time.perf_counter_ns() - self._began_ns,
            load_duration=self._lease.load_ns,
            prompt_eval_count=done.prompt_count,
            prompt_eval_duration=done.prompt_ns,
            eval_count=done.eval_count,
            eval_duration=done.eval_ns,
        )


def _empty(opened: Opened, reason: str) -> GenerateResponse:
    return GenerateResponse(model=opened.asked, created_at=utc_now(), response="", done=True, done_reason=reason)


def _rendered(opened: Opened, prompt: str) -> GenerateResponse:
    info = DebugInfo(rendered_template=prompt)
    return GenerateResponse(model=opened.asked, created_at=utc_now(), response="", done=False, debug_info=info)
