"""`hearth cp`, `hearth rm` and `hearth stop`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from hearthd.command.client import Client
from hearthd.command.failure import ServerRefused
from hearthd.command.replies import Nothing
from hearthd.command.terminal import line


def define_copy(parser: ArgumentParser) -> None:
    """The arguments of `cp`."""
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("destination", metavar="DESTINATION")


def copy(arguments: Namespace, client: Client) -> int:
    """Give a model a second name."""
    client.tell("/api/copy", {"source": arguments.source, "destination": arguments.destination})
    return _say(f"copied '{arguments.source}' to '{arguments.destination}'")


def define_remove(parser: ArgumentParser) -> None:
    """The arguments of `rm`."""
    parser.add_argument("models", nargs="+", metavar="MODEL")


def remove(arguments: Namespace, client: Client) -> int:
    """Unload models and remove them; the first that fails ends it."""
    for name in arguments.models:
        try:
            unload(client, name)
        except ServerRefused as error:
            if error.status != 404:  # the answer to the removal says it
                sys.stderr.write(f"Warning: '{line(name)}' could not be unloaded: {error}\n")
        client.tell("/api/delete", {"model": name}, method="DELETE")
        _say(f"deleted '{name}'")
    return 0


def define_stop(parser: ArgumentParser) -> None:
    """The arguments of `stop`."""
    parser.add_argument("model", metavar="MODEL")


def stop(arguments: Namespace, client: Client) -> int:
    """Unload a model as soon as nobody uses it."""
    unload(client, arguments.model)
    return 0


def unload(client: Client, name: str) -> None:
    """Let the model's time in memory end. ServerRefused with status 404 where there is no such model."""
    client.ask("/api/generate", {"model": name, "keep_alive": 0, "stream": False}, Nothing)


def _say(text: str) -> int:
    sys.stdout.write(line(text) + "\n")
    sys.stdout.flush()
    return 0
