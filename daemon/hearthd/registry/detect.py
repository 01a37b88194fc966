"""Which of the known chat formats a checkpoint's Jinja template writes, told from what it writes.

The template renders a few short conversations, sandboxed; a family fits where the marks around every turn are its
own. Blanks around the marks, tokens that begin or end a sequence, and a default system text in front may differ.
"""

from __future__ import annotations

import msgspec

from hearthd.errors import BadRequest
from hearthd.prompt import jinja
from hearthd.registry.families import FAMILIES, Family

MAX_TEMPLATE_CHARS = 64 << 10

# a template that speaks of these does more than plain chat, and more than any family's template
_MORE_THAN_CHAT = ("tool", "think", "reasoning", "documents")

# what begins or ends a sequence, in one checkpoint or another
_SEQUENCE_TOKENS = frozenset(("<s>", "</s>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|EOT|>"))

Turns = list[tuple[str, str]]

_CHAT: Turns = [("user", "Question-One"), ("assistant", "Answer-One"), ("user", "Question-Two")]
_SYSTEM = "Rule-One"
_GUIDED_CHAT: Turns = [("system", _SYSTEM), *_CHAT]


def detect(template: str, bos: str = "", eos: str = "") -> Family | None:
    """The family whose format `template` writes, or None. `bos`, `eos`: the special tokens that it may ask for."""
    if len(template) > MAX_TEMPLATE_CHARS or any(word in template for word in _MORE_THAN_CHAT):
        return None
    chat = _rendered(template, _CHAT, bos, eos)
    if chat is None:
        return None
    guided = _rendered(template, _GUIDED_CHAT, bos, eos)
    fits = [fit for family in FAMILIES if (fit := _Fit.of(family, chat, guided, bos, eos)) is not None]
    best = next((fit for fit in fits if fit.writes_system), None) or next((fit for fit in fits if fit.is_enough), None)
    return best.family if best else None


def _rendered(template: str, turns: Turns, bos: str, eos: str) -> str | None:
    """What the template writes; None where it refuses."""
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        return jinja.render(
            template, messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos, tools=None
        )
    except BadRequest:
        return None


class _Fit(msgspec.Struct, frozen=True):
    """A family whose user and assistant turns are those of the template, and what becomes of a system text."""

    family: Family
    writes_system: bool  # as the family does
    leaves_system_open: bool  # refuses it, drops it, or puts it in front without a mark

    @property
    def is_enough(self) -> bool:
        return self.leaves_system_open and not self.family.told_by_system

    @classmethod
    def of(cls, family: Family, chat: str, guided: str | None, bos: str, eos: str) -> _Fit | None:
        """None where the turns differ. `guided` is `chat` with a system text, None where that was refused."""
        dropped = _SEQUENCE_TOKENS | {token for token in (bos, eos) if token and token not in family.template}
        bare_chat, want_chat = _bare(chat, dropped), _bare(family.render(_CHAT), dropped)
        if not bare_chat.endswith(want_chat):
            return None
        head = bare_chat.removesuffix(want_chat)  # a default system text
        bare_guided, want_guided = _bare(guided or "", dropped), _bare(family.render(_GUIDED_CHAT), dropped)
        return cls(
            family,
            writes_system=bare_guided in (want_guided, head + want_guided),
            leaves_system_open=guided is None or bare_guided in (bare_chat, _SYSTEM + bare_chat),
        )


def _bare(text: str, dropped: frozenset[str]) -> str:
    """`text` without blanks and the tokens `dropped`."""
    for token in sorted(dropped):
        text = text.replace(token, "")
    return "".join(text.split())
