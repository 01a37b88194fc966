"""What a model's prompt is made of: its chat template and the special tokens that it may name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import msgspec

from hearthd.api.abilities import own_template
from hearthd.api.opening import Opened
from hearthd.api.services import Services
from hearthd.prompt.conversation import Conversation, Turn
from hearthd.prompt.images import marked
from hearthd.prompt.render import ChatTemplate, Specials, go_chat, jinja_chat
from hearthd.prompt.truncate import fit
from hearthd.registry.families import is_family_template
from hearthd.scheduler.runner import Runner
from hearthd.store.store import ModelStore
from hearthd.threads import in_thread

PLAIN_TEMPLATE = "{{ .Prompt }}"
_SPARE_TOKENS = 8  # what tokenizing may add to a text of so many bytes: BOS, a leading space
_LONG_CHARS = 32 << 10  # of a conversation that is rendered beside the event loop
_LONG_TURNS = 64


def template_of(services: Services, opened: Opened, override: str = "") -> ChatTemplate:
    """The request's template, else the model's own, else the checkpoint's; plain text where there is none.

    One that create made because it recognised the checkpoint's stands back for that, which says more: a system text of
    its own, perhaps. The model must have been converted, as it is once it is loaded. Raises TemplateError.
    """
    if override:
        return go_chat(override)
    text = own_template(services.store, opened.model)
    own = _of_checkpoint(services.store, opened.contents.model_digest)
    return go_chat(text or PLAIN_TEMPLATE) if own is None or (text and not is_family_template(text)) else own


@functools.lru_cache(maxsize=8)
def _of_checkpoint(store: ModelStore, digest: str) -> ChatTemplate | None:
    source = store.source_info(digest)
    if source is None or not source.chat_template:
        return None
    adds_bos = any(info.add_bos for _, info in store.variants(digest))
    return jinja_chat(source.chat_template, Specials(source.bos_token, source.eos_token, adds_bos))


async def rendered(template: ChatTemplate, conversation: Conversation) -> str:
    """The prompt; of a long conversation made in a thread, so that nobody waits for it."""
    turns = conversation.turns
    if len(turns) < _LONG_TURNS and sum(len(turn.content) for turn in turns) < _LONG_CHARS:
        return _render(template, conversation)
    return await in_thread(lambda: _render(template, conversation), _threads())


@functools.cache
def _threads() -> Executor:
    """One of its own: those for files may be busy with gigabytes."""
    return ThreadPoolExecutor(1, "prompts")


def _render(template: ChatTemplate, conversation: Conversation) -> str:
    return template.render(_with(conversation, marked(conversation.turns)))


def _with(conversation: Conversation, turns: Sequence[Turn]) -> Conversation:
    return msgspec.structs.replace(conversation, turns=tuple(turns))


async def fitted(template: ChatTemplate, conversation: Conversation, runner: Runner) -> str:
    """The prompt of as much of the conversation as the context window holds. Raises as `ChatTemplate.render`."""
    num_ctx = runner.loaded.num_ctx
    length, text = -1, ""  # of the selection counted last, which mostly is the one that is taken

    async def count(kept: Sequence[Turn]) -> int:
        nonlocal length, text
        length, text = len(kept), await rendered(template, _with(conversation, kept))
        most = len(text.encode()) + _SPARE_TOKENS
        return most if most <= num_ctx else len(await runner.tokenize(text))

    kept = await fit(conversation.turns, count, num_ctx)
    return text if len(kept) == length else await rendered(template, _with(conversation, kept))
