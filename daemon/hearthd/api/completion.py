"""What /api/generate and /api/chat have in common: load, unload, render, generate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from hearthd.api import answer, opening
from hearthd.api.exchange import Exchange
from hearthd.api.formats import schema_of
from hearthd.api.opening import Opened
from hearthd.api.prompts import template_of
from hearthd.api.services import Services
from hearthd.api.wire import ChatRequest, GenerateRequest
from hearthd.engine.frames import Grammar
from hearthd.errors import BadRequest
from hearthd.prompt.conversation import Tool
from hearthd.prompt.render import ChatTemplate
from hearthd.prompt.speech import AnswerParser, opens_thinking
from hearthd.prompt.thinking import Tags
from hearthd.scheduler.lease import Lease


class Reply(answer.Reply, Protocol):
    """The wire objects of one endpoint."""

    def leased(self, lease: Lease) -> None:
        """The model is loaded."""

    def empty(self, reason: str) -> msgspec.Struct:
        """The answer where nothing was asked: the model was loaded or unloaded."""

    def rendered(self, prompt: str) -> msgspec.Struct:
        """What the model would have been given."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One request, checked, with what differs between the endpoints."""

    request: GenerateRequest | ChatRequest
    opened: Opened
    reply: Reply
    is_empty: bool  # nothing is asked: load or unload
    prompt: Callable[[ChatTemplate, Lease | None], Awaitable[str]]  # without a lease: cut to no window
    tools: tuple[Tool, ...] = ()
    think: bool = False
    is_raw: bool = False  # the answer is not looked into
    template: str = ""  # instead of the model's own
    context: list[int] | None = None
    want_context: bool = False


async def complete(services: Services, exchange: Exchange, task: Task) -> None:
    """Answers a request that the endpoint has checked. Raises HearthError."""
    request, opened, reply = task.request, task.opened, task.reply
    options = opened.options(request.options)
    schema = schema_of(request.format)
    exchange.watch()
    keep_alive_ns = opening.keep_alive_ns(request.keep_alive)

    async def next_prompt() -> str:
        return await _expected(services, task)

    load_options = opening.load_options(options)
    async with services.scheduler.lease(opened.model, load_options, keep_alive_ns, next_prompt) as lease:
        reply.leased(lease)
        if task.is_empty:
            return await exchange.json(reply.empty("load"))
        template = template_of(services, opened, task.template)
        prompt = await task.prompt(template, lease)
        if request.debug_render_only:
            return await exchange.json(reply.rendered(prompt))
        thoughts = _thoughts(task, template, prompt)
        reads = bool(thoughts or task.tools)
        frame = opening.generate_frame(
            options,
            prompt,
            truncate=request.truncate,
            shift=request.shift,
            context=task.context,
            want_context=task.want_context,
            grammar=_grammar(schema, thoughts),
            top_logprobs=request.top_logprobs if request.logprobs else -1,
            visible=template.speech.visible if reads else (),
        )
        parser = AnswerParser(
            template.speech, task.tools, think=thoughts is not None, is_open=thoughts is not None and thoughts.are_open
        )
        await answer.send(exchange, lease.runner.generate(frame), parser, reply, stream=request.stream)


async def _expected(services: Services, task: Task) -> str:
    """The prompt, before the model is loaded; "" where it is not known by then."""
    if task.is_empty or task.context:
        return ""
    try:
        return await task.prompt(template_of(services, task.opened, task.template), None)
    except Exception:  # of the template, or of what it was given; it comes again when it matters
        return ""


class _Thoughts(msgspec.Struct, frozen=True):
    """The model will think: between which tags, and whether the prompt has opened them."""

    tags: Tags
    are_open: bool


def _thoughts(task: Task, template: ChatTemplate, prompt: str) -> _Thoughts | None:
    tags = template.speech.thinking
    if tags is None or not task.think or task.is_raw:
        return None
    return _Thoughts(tags, opens_thinking(prompt, tags))


def _grammar(schema: str | None, thoughts: _Thoughts | None) -> Grammar | None:
    if schema is None:
        return None
    if thoughts is None:
        return Grammar(schema)
    return Grammar(schema, thoughts.tags.opening, thoughts.tags.closing, thoughts.are_open)


def thinks(asked: bool | str | None, opened: Opened, can: tuple[str, ...]) -> bool | None:
    """Whether to think: what the request says, else yes where the model can; None where that is no question.

    BadRequest where it should and cannot.
    """
    if "thinking" in can:
        return True if asked is None else bool(asked)
    if asked:
        raise BadRequest(f'"{opened.asked}" does not support thinking')
    return None if asked is None else False
