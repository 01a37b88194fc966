"""POST /api/generate."""

from __future__ import annotations

import time

from hearthd.api import answer, opening
from hearthd.api.abilities import abilities
from hearthd.api.completion import Task, complete, thinks
from hearthd.api.exchange import Exchange
from hearthd.api.images import check_images
from hearthd.api.opening import Opened
from hearthd.api.prompts import rendered
from hearthd.api.services import Services
from hearthd.api.stamp import utc_now
from hearthd.api.turns import read_think
from hearthd.api.wire import DebugInfo, GenerateChunk, GenerateRequest, GenerateResponse, Logprob
from hearthd.engine.frames import Done
from hearthd.errors import BadRequest
from hearthd.prompt.conversation import Conversation, Turn
from hearthd.prompt.render import ChatTemplate
from hearthd.prompt.speech import Part
from hearthd.scheduler.lease import Lease


async def generate(services: Services, exchange: Exchange) -> None:
    """Continue a prompt; without one, load or unload the model."""
    began_ns = time.perf_counter_ns()
    request = await exchange.bind(GenerateRequest, services.config.max_body_bytes)
    opening.check_top_logprobs(request.top_logprobs)
    check_images(request.images)
    keep_alive_ns = opening.keep_alive_ns(request.keep_alive)
    opened = opening.open_model(services, request.model or request.name)
    reply = _Reply(opened.asked, began_ns)
    if not request.prompt and keep_alive_ns == 0:
        services.scheduler.expire(opened.model)
        await exchange.json(reply.empty("unload"))
        return
    conversation = _conversation(services, opened, request)

    async def prompt(template: ChatTemplate, _: Lease | None) -> str:
        if request.raw:
            return request.prompt
        if request.suffix:
            return template.render_insert(request.prompt, request.suffix, conversation)
        return await rendered(template, conversation)

    task = Task(
        request=request,
        opened=opened,
        reply=reply,
        is_empty=not request.prompt,
        prompt=prompt,
        think=bool(conversation.think),
        is_raw=request.raw,
        template=request.template,
        context=request.context,
        want_context=not request.raw,
    )
    await complete(services, exchange, task)


def _conversation(services: Services, opened: Opened, request: GenerateRequest) -> Conversation:
    """System, the model's own messages unless a context takes their place, and the prompt. BadRequest as specified."""
    if request.raw and (request.template or request.system or request.context):
        raise BadRequest("raw mode does not support template, system, or context")
    can = abilities(services.store, opened.model)
    think, level = read_think(request.think)
    think = thinks(think, opened, can)
    opening.check_verb(opened, "generate", can)
    if request.suffix and "insert" not in can and ".Suffix" not in request.template:
        raise BadRequest(f"{opened.model.name.full} does not support insert")
    if request.images:
        raise BadRequest(f'"{opened.asked}" does not support images')
    opening.check_context(request.context or [])
    system = request.system or opened.contents.system
    turns = [Turn("system", system)] if system else []
    if request.context is None:
        turns += [Turn(message.role, message.content) for message in opened.contents.messages]
    return Conversation(turns=(*turns, Turn("user", request.prompt)), think=think, think_level=level)


class _Reply:
    """The wire objects of one answer."""

    __slots__ = ("_began_ns", "_load_ns", "_name")

    def __init__(self, name: str, began_ns: int) -> None:
        self._name = name
        self._began_ns = began_ns
        self._load_ns = 0

    def leased(self, lease: Lease) -> None:
        self._load_ns = lease.load_ns

    def chunk(self, part: Part, logprobs: list[Logprob]) -> GenerateChunk:
        return GenerateChunk(self._name, utc_now(), part.content, False, part.thinking, logprobs)

    def final(self, part: Part, logprobs: list[Logprob], done: Done) -> GenerateResponse:
        return GenerateResponse(
            model=self._name,
            created_at=utc_now(),
            response=part.content,
            done=True,
            thinking=part.thinking,
            done_reason=answer.done_reason(done),
            context=done.context,
            total_duration=time.perf_counter_ns() - self._began_ns,
            load_duration=self._load_ns,
            prompt_eval_count=done.prompt_count,
            prompt_eval_duration=done.prompt_ns,
            eval_count=done.eval_count,
            eval_duration=done.eval_ns,
            logprobs=logprobs,
        )

    def empty(self, reason: str) -> GenerateResponse:
        return GenerateResponse(model=self._name, created_at=utc_now(), response="", done=True, done_reason=reason)

    def rendered(self, prompt: str) -> GenerateResponse:
        info = DebugInfo(rendered_template=prompt)
        return GenerateResponse(model=self._name, created_at=utc_now(), response="", done=False, debug_info=info)
