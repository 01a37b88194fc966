"""POST /api/chat."""

from __future__ import annotations

import time

from hearthd.api import answer, opening
from hearthd.api.abilities import abilities
from hearthd.api.completion import Task, complete, thinks
from hearthd.api.exchange import Exchange
from hearthd.api.opening import Opened
from hearthd.api.prompts import fitted, rendered
from hearthd.api.services import Services
from hearthd.api.stamp import utc_now
from hearthd.api.turns import read_think, read_tools, read_turns, wire_call
from hearthd.api.wire import ChatChunk, ChatRequest, ChatResponse, DebugInfo, Logprob, Message
from hearthd.engine.frames import Done
from hearthd.errors import BadRequest
from hearthd.prompt.conversation import Conversation, Turn
from hearthd.prompt.render import ChatTemplate
from hearthd.prompt.speech import Part
from hearthd.scheduler.lease import Lease


async def chat(services: Services, exchange: Exchange) -> None:
    """Answer the last message; without messages, load or unload the model."""
    began_ns = time.perf_counter_ns()
    request = await exchange.bind(ChatRequest, services.config.max_body_bytes)
    opening.check_top_logprobs(request.top_logprobs)
    if not (request.model or request.name):
        raise BadRequest("model is required")
    keep_alive_ns = opening.keep_alive_ns(request.keep_alive)
    opened = opening.open_model(services, request.model or request.name)
    reply = _Reply(opened.asked, began_ns)
    if not request.messages and keep_alive_ns == 0:
        services.scheduler.expire(opened.model)
        await exchange.json(reply.empty("unload"))
        return
    conversation = _conversation(services, opened, request)

    async def prompt(template: ChatTemplate, lease: Lease | None) -> str:
        if request.truncate and lease is not None:
            return await fitted(template, conversation, lease.runner)
        return await rendered(template, conversation)

    task = Task(
        request=request,
        opened=opened,
        reply=reply,
        is_empty=not request.messages,
        prompt=prompt,
        tools=conversation.tools,
        think=bool(conversation.think),
    )
    await complete(services, exchange, task)


def _conversation(services: Services, opened: Opened, request: ChatRequest) -> Conversation:
    """The conversation with what the model brings. BadRequest for what is wrong, or what the model cannot do."""
    can = abilities(services.store, opened.model)
    think, level = read_think(request.think)
    think = thinks(think, opened, can)
    opening.check_verb(opened, "chat", can)
    tools = read_tools(request.tools)
    if tools and "tools" not in can:
        raise BadRequest(f"{opened.model.name.full} does not support tools")
    turns = read_turns(request.messages)
    if any(turn.images for turn in turns):
        raise BadRequest(f'"{opened.asked}" does not support images')
    return Conversation(turns=_with_own(opened, turns), tools=tools, think=think, think_level=level)


def _with_own(opened: Opened, asked: list[Turn]) -> tuple[Turn, ...]:
    """The model's own messages, then the request's; the model's system text first unless the request brings one."""
    own = [Turn(message.role, message.content) for message in opened.contents.messages]
    system = opened.contents.system if asked and asked[0].role != "system" else ""
    return (*([Turn("system", system)] if system else []), *own, *asked)


class _Reply:
    """The wire objects of one answer."""

    __slots__ = ("_began_ns", "_load_ns", "_name")

    def __init__(self, name: str, began_ns: int) -> None:
        self._name = name
        self._began_ns = began_ns
        self._load_ns = 0

    def leased(self, lease: Lease) -> None:
        self._load_ns = lease.load_ns

    def chunk(self, part: Part, logprobs: list[Logprob]) -> ChatChunk:
        return ChatChunk(self._name, utc_now(), _message(part), False, logprobs)

    def final(self, part: Part, logprobs: list[Logprob], done: Done) -> ChatResponse:
        return ChatResponse(
            model=self._name,
            created_at=utc_now(),
            message=_message(part),
            done=True,
            done_reason=answer.done_reason(done),
            total_duration=time.perf_counter_ns() - self._began_ns,
            load_duration=self._load_ns,
            prompt_eval_count=done.prompt_count,
            prompt_eval_duration=done.prompt_ns,
            eval_count=done.eval_count,
            eval_duration=done.eval_ns,
            logprobs=logprobs,
        )

    def empty(self, reason: str) -> ChatResponse:
        message = Message("assistant", "")
        return ChatResponse(model=self._name, created_at=utc_now(), message=message, done=True, done_reason=reason)

    def rendered(self, prompt: str) -> ChatResponse:
        info, message = DebugInfo(rendered_template=prompt), Message("assistant", "")
        return ChatResponse(model=self._name, created_at=utc_now(), message=message, done=False, debug_info=info)


def _message(part: Part) -> Message:
    return Message("assistant", part.content, part.thinking, [wire_call(call) for call in part.calls])
