"""The commands within a conversation: `/set`, `/show` and so on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hearthd.command import settings
from hearthd.command.failure import CommandFailed, ServerRefused
from hearthd.command.replies import Nothing, Shown
from hearthd.command.run import load
from hearthd.command.show import overview
from hearthd.command.terminal import line, plain

if TYPE_CHECKING:
    from hearthd.command.conversation import Conversation

Act = Callable[["Conversation", str], None]

HELP = """\
Commands:
  /set            set what holds for this conversation
  /show           show what is known of the model
  /load MODEL     talk to another model, from the beginning
  /save MODEL     keep this conversation as a model
  /clear          forget what was said
  /bye            leave
  /?, /help       this text; also /? set, /? show
  /? shortcuts    keys

Use \"\"\" to begin and end a message of several lines.
"""
SHORTCUTS = """\
Keys:
  Ctrl + a, Ctrl + e    to the beginning, the end of the line
  Alt + b, Alt + f      a word back, a word forward
  Ctrl + k, Ctrl + u    wipe what follows, what precedes the cursor
  Ctrl + w              wipe the word before the cursor
  Ctrl + r              search what was typed before; Up and Down go through it
  Ctrl + l              clear the screen
  Ctrl + c              stop the answer
  Ctrl + d              leave
"""
SHOW_HELP = """\
Commands:
  /show info         what is known of the model
  /show license      its licence
  /show modelfile    the Modelfile that makes it
  /show parameters   its parameters, and those set here
  /show system       the system message
  /show template     the prompt template
"""


def obey(conversation: Conversation, text: str) -> bool:
    """Do what `text`, which begins with a slash, says; False where it says to leave."""
    word, _, rest = text.partition(" ")
    if word in ("/bye", "/exit"):
        return False
    act = ACTS.get(word)
    if act is None:
        conversation.say(f"Unknown command '{line(word, 100)}'. Type /? for help")
    else:
        act(conversation, rest.strip())
    return True


def _help(conversation: Conversation, topic: str) -> None:
    texts = {"set": settings.HELP, "show": SHOW_HELP, "shortcut": SHORTCUTS, "shortcuts": SHORTCUTS}
    conversation.say(texts.get(topic.removeprefix("/"), HELP))


def _clear(conversation: Conversation, _: str) -> None:
    conversation.messages = []
    conversation.say("Cleared session context")


def _load(conversation: Conversation, model: str) -> None:
    if not model or len(model.split()) != 1:
        conversation.say("Usage:\n  /load <modelname>")
        return
    conversation.say(f"Loading model '{line(model, 200)}'")
    try:
        shown = conversation.client.ask("/api/show", {"model": model}, Shown)
        load(conversation.client, {"model": model, **conversation.fields})
    except ServerRefused as error:
        if error.status != 404:
            raise
        conversation.say(f"Couldn't find model '{line(model, 200)}'")
        return
    conversation.model, conversation.shown, conversation.messages = model, shown, []
    conversation.recall()


def _save(conversation: Conversation, name: str) -> None:
    """The model's own messages are kept before those of the conversation."""
    if not name or len(name.split()) != 1:
        conversation.say("Usage:\n  /save <modelname>")
        return
    fields = {
        "system": conversation.system,
        "parameters": conversation.options,
        "messages": [*(conversation.shown.messages or []), *conversation.messages] if conversation.messages else [],
    }
    said = {key: value for key, value in fields.items() if value}
    payload = {"model": name, "from": conversation.model, "stream": False, **said}
    conversation.client.ask("/api/create", payload, Nothing)
    conversation.say(f"Created new model '{line(name, 200)}'")


def _show(conversation: Conversation, aspect: str) -> None:
    texts: dict[str, Callable[[Conversation, Shown], str]] = {
        "info": lambda _, shown: overview(shown),
        "license": lambda _, shown: shown.license or "No license was specified for this model.",
        "modelfile": lambda _, shown: shown.modelfile,
        "parameters": _parameters,
        "system": lambda here, shown: here.system or shown.system or "No system message was specified for this model.",
        "template": lambda _, shown: shown.template or "No prompt template was specified for this model.",
    }
    if not aspect:
        conversation.say(SHOW_HELP)
    elif aspect not in texts:
        conversation.say(f"Unknown command '/show {line(aspect, 100)}'. Type /? for help")
    else:
        shown = conversation.client.ask("/api/show", {"model": conversation.model}, Shown)
        conversation.say(plain(texts[aspect](conversation, shown)).rstrip("\n") + "\n")


def _parameters(conversation: Conversation, shown: Shown) -> str:
    own = [f"  {text}" for text in shown.parameters.splitlines()]
    lines = ["Model defined parameters:", *(own or ["  No additional parameters were specified for this model."])]
    if conversation.options:
        lines += ["", "User defined parameters:"]
        lines += [f"  {name:<30} {settings.shown(value)}" for name, value in conversation.options.items()]
    return "\n".join(lines)


def _list(conversation: Conversation, prefix: str) -> None:
    from argparse import Namespace

    from hearthd.command.listing import list_models

    list_models(Namespace(prefix=prefix), conversation.client)


def _set(conversation: Conversation, text: str) -> None:
    try:
        settings.change(conversation, text)
    except CommandFailed as error:
        sys.stderr.write(f"Error: {line(str(error))}\n")


ACTS: dict[str, Act] = {
    "/?": _help,
    "/help": _help,
    "/clear": _clear,
    "/load": _load,
    "/save": _save,
    "/show": _show,
    "/set": _set,
    "/list": _list,
}
