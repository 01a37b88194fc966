"""`/set` within a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hearthd.command.create import parameter
from hearthd.command.failure import CommandFailed
from hearthd.command.run import THINK, read_format
from hearthd.command.terminal import line

if TYPE_CHECKING:
    from hearthd.command.conversation import Conversation

HELP = """\
Commands:
  /set parameter NAME VALUE...   set a parameter
  /set system TEXT               set the system message
  /set history, nohistory        keep what is typed, or not
  /set wordwrap, nowordwrap      break lines between words, or not
  /set format json, noformat     ask for JSON, or not; a file may hold a JSON schema
  /set verbose, quiet            tell what each answer took, or not
  /set think, nothink            let the model think first, or not
"""
PARAMETERS = """\
Parameters:
  /set parameter seed INT               random numbers begin with it
  /set parameter num_predict INT        tokens that an answer may have
  /set parameter top_k INT              choose from so many tokens
  /set parameter top_p NUMBER           choose from tokens of so much probability together
  /set parameter min_p NUMBER           choose from tokens of so much of the best one's probability
  /set parameter num_ctx INT            tokens in the context window
  /set parameter temperature NUMBER     0 is always the likeliest token
  /set parameter repeat_penalty NUMBER  how much repetitions are disliked
  /set parameter repeat_last_n INT      how far back they are looked for
  /set parameter stop TEXT TEXT...      texts at which an answer ends
"""


def change(conversation: Conversation, text: str) -> None:
    """Do what `/set text` asks. CommandFailed for a value that cannot be."""
    what, _, value = text.partition(" ")
    act = _ACTS.get(what)
    if not what:
        conversation.say(HELP)
    elif act is None:
        conversation.say(f"Unknown command '/set {line(what, 100)}'. Type /? for help")
    else:
        conversation.say(act(conversation, value.strip()))


def shown(value: Any) -> str:
    """A parameter's value for people."""
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameter(conversation: Conversation, text: str) -> str:
    name, _, rest = text.partition(" ")
    if not rest.strip():
        return PARAMETERS
    values = [parameter(name, word) for word in _words(rest)]
    if isinstance(values[0], tuple):
        conversation.options[name] = [member for value in values for member in value]
    elif len(values) == 1:
        conversation.options[name] = values[0]
    else:
        raise CommandFailed(f"{name} takes one value")
    return f"Set parameter '{name}' to '{shown(conversation.options[name])}'"


def _words(text: str) -> list[str]:
    """Words, of which quoted ones may hold blanks."""
    import shlex

    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _system(conversation: Conversation, text: str) -> str:
    if not text:
        return HELP
    if text.startswith('"""'):
        text = conversation.read_quoted(text.removeprefix('"""'))
    conversation.system = text
    return "Set system message."


def _format(conversation: Conversation, text: str) -> str:
    if not text:
        raise CommandFailed("the format is json, or a file with a JSON schema: /set format json")
    conversation.fields["format"] = read_format(text)
    return f"Set format to '{line(text, 100)}' mode."


def _noformat(conversation: Conversation, _: str) -> str:
    conversation.fields.pop("format", None)
    return "Disabled format."


def _think(conversation: Conversation, level: str) -> str:
    if level and level not in THINK:
        raise CommandFailed(f"{level[:100]!r} is none of {', '.join(THINK)}")
    conversation.fields["think"] = THINK[level or "true"]
    return f"Set 'think' mode to '{level}'." if level else "Set 'think' mode."


def _nothink(conversation: Conversation, _: str) -> str:
    conversation.fields["think"] = False
    return "Set 'nothink' mode."


def _flag(name: str, value: bool, mode: str) -> Callable[[Conversation, str], str]:
    def act(conversation: Conversation, _: str) -> str:
        setattr(conversation, name, value)
        return f"Set '{mode}' mode."

    return act


def _history(keeps: bool) -> Callable[[Conversation, str], str]:
    def act(conversation: Conversation, _: str) -> str:
        conversation.editor.keeps_history = keeps
        return f"Set '{'history' if keeps else 'nohistory'}' mode."

    return act


_ACTS: dict[str, Callable[[Conversation, str], str]] = {
    "parameter": _parameter,
    "system": _system,
    "history": _history(True),
    "nohistory": _history(False),
    "wordwrap": _flag("wrap", True, "wordwrap"),
    "nowordwrap": _flag("wrap", False, "nowordwrap"),
    "verbose": _flag("verbose", True, "verbose"),
    "quiet": _flag("verbose", False, "quiet"),
    "format": _format,
    "noformat": _noformat,
    "think": _think,
    "nothink": _nothink,
}
