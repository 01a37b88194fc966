"""The verbs of the command line: where each one's code is. It is imported when the verb is used."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """A row of VERBS."""

    define: str  # "module:function" that adds the arguments to a parser
    main: str  # "module:function" that does the work: (arguments, client) -> exit status
    summary: str


VERBS = {
    "run": Verb("run:define", "run:run", "talk to a model, or have one prompt answered"),
    "pull": Verb("wire:define_pull", "wire:pull", "fetch a model from a registry"),
    "push": Verb("wire:define_push", "wire:push", "send a model to a registry"),
    "list": Verb("listing:define", "listing:list_models", "the models that are here (also: ls)"),
    "ps": Verb("listing:define", "listing:list_loaded", "the models that are loaded"),
    "show": Verb("show:define", "show:show", "what is known of a model"),
    "create": Verb("create:define", "create:create", "make a model from a Modelfile"),
    "cp": Verb("models:define_copy", "models:copy", "give a model a second name"),
    "rm": Verb("models:define_remove", "models:remove", "remove models"),
    "stop": Verb("models:define_stop", "models:stop", "unload a model"),
}
ALIASES = {"ls": "list", "copy": "cp", "delete": "rm", "remove": "rm"}

# verbs that need no server
LOCAL = {
    "serve": "run the daemon (also: start)",
    "check": "look for what is wrong with this machine and its settings",
    "install-service": "have systemd run the daemon",
    "uninstall-service": "take the service away; models stay",
    "help": "this text, or that of a verb",
}


def usage() -> str:
    """The text of `hearth --help`."""
    rows = {"serve": LOCAL["serve"]} | {name: verb.summary for name, verb in VERBS.items()} | LOCAL
    lines = "".join(f"  {name:<17} {summary}\n" for name, summary in rows.items())
    return (
        "usage: hearth VERB [OPTION...] [ARGUMENT...]\n"
        "       hearth --version\n\n"
        f"{lines}\n"
        "'hearth VERB --help' tells more. The server is looked for where HEARTH_HOST (or OLLAMA_HOST) says,\n"
        "by default at 127.0.0.1:11434; 'hearth serve --help' lists the settings of the daemon.\n"
    )
