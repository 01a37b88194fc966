"""What a model can do, told from its checkpoint's facts and its templates."""

from __future__ import annotations

from hearthd.registry.families import is_family_template
from hearthd.store.variant import SourceInfo


def capabilities(source: SourceInfo, template: str = "") -> tuple[str, ...]:
    """The capabilities that /api/show lists. `template`: the model's own Go template, "" where it has none."""
    architecture, facts = source.architecture, source.metadata
    found = ["embedding" if f"{architecture}.pooling_type" in facts else "completion"]
    found += [kind for kind in ("vision", "audio") if f"{architecture}.{kind}.block_count" in facts]
    if not is_family_template(template):  # these are for plain chat
        found += _of_go_template(template) if template else _of_jinja(source.chat_template or "")
    return tuple(found)


def _of_go_template(text: str) -> list[str]:
    from hearthd.prompt.gotags import thinking_tags  # an idle daemon has no use for them
    from hearthd.prompt.gotemplate.errors import TemplateError
    from hearthd.prompt.gotemplate.parser import parse

    try:
        template = parse(text)
    except TemplateError:  # a pulled model may have any
        return []
    names = {"tools": "tools", "insert": "suffix"}
    found = [capability for capability, name in names.items() if name in template.identifiers]
    return found + (["thinking"] if thinking_tags(template) else [])


def _of_jinja(text: str) -> list[str]:
    from hearthd.prompt.speech import of_jinja

    found = ["tools"] if "tools" in text or "tool_call" in text else []
    return found + (["thinking"] if of_jinja(text).thinking else [])


def parameter_size(num_parameters: int) -> str:
    """A count for people: `8.0B` is 8,030,000,000, `1B` exactly 1,000,000,000, `134.52M`, `361K`, `12`."""
    for unit, scale, digits in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if num_parameters >= scale:
            whole = num_parameters % scale == 0
            return f"{num_parameters / scale:.{0 if whole else digits}f}{unit}"
    return str(num_parameters)
