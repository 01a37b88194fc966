"""What a model's prompt is made of: its chat template and the special tokens that it may name."""

from __future__ import annotations

import functools

import msgspec

from hearthd.api.opening import Opened
from hearthd.api.services import Services
from hearthd.prompt.render import Specials, Turn, render
from hearthd.store.store import ModelStore


class Template(msgspec.Struct, frozen=True):
    """Turns into prompts, the model's way. `text` is None where the checkpoint has no template of its own."""

    text: str | None
    specials: Specials

    def render(self, turns: list[Turn]) -> str:
        """The prompt. BadRequest where the template refuses the conversation."""
        return render(turns, self.text, self.specials)


def template_of(services: Services, opened: Opened) -> Template:
    """The model's template; the model must have been converted, as it is once it is loaded."""
    return _read(services.store, opened.contents.model_digest)


@functools.lru_cache(maxsize=8)
def _read(store: ModelStore, digest: str) -> Template:
    source = store.source_info(digest)
    if source is None:
        return Template(None, Specials())
    adds_bos = any(info.add_bos for _, info in store.variants(digest))
    return Template(source.chat_template, Specials(source.bos_token, source.eos_token, adds_bos))
