"""`hearth pull` and `hearth push`: models over the wire."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from hearthd.command.client import Client
from hearthd.command.progress import open_display
from hearthd.command.replies import Step
from hearthd.command.terminal import line


def define_pull(parser: ArgumentParser) -> None:
    """The arguments of `pull`."""
    parser.add_argument("model", metavar="MODEL", help="[http://][HOST/][NAMESPACE/]MODEL[:TAG]")
    parser.add_argument("--insecure", action="store_true", help="plain HTTP, or certificates that nobody vouches for")


def pull(arguments: Namespace, client: Client) -> int:
    """Fetch a model, showing how far it is."""
    return fetch(client, arguments.model, arguments.insecure)


def fetch(client: Client, model: str, insecure: bool) -> int:
    """Have the server pull `model`; 0. After Ctrl-C it says how to go on."""
    try:
        _follow(client, "/api/pull", {"model": model, "insecure": insecure or _is_plain(model)})
    except KeyboardInterrupt:
        sys.stderr.write(f"\nstopped; 'hearth pull {line(model)}' goes on where this ended")
        raise
    return 0


def define_push(parser: ArgumentParser) -> None:
    """The arguments of `push`."""
    define_pull(parser)
    parser.add_argument("--with-variants", action="store_true", help="also what it was converted to")
    parser.add_argument("--no-source", action="store_true", help="only what it was converted to, for small devices")


def push(arguments: Namespace, client: Client) -> int:
    """Send a model, showing how far it is."""
    insecure = arguments.insecure or _is_plain(arguments.model)
    fields: dict[str, Any] = {"model": arguments.model, "insecure": insecure}
    if arguments.with_variants or arguments.no_source:
        fields["variants"] = True
    if arguments.no_source:
        fields["source"] = False
    try:
        _follow(client, "/api/push", fields)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on where this ended, if the registry allows")
        raise
    return 0


def _follow(client: Client, path: str, fields: Mapping[str, Any]) -> None:
    with open_display() as display, closing(client.stream(path, {**fields, "stream": True}, Step)) as steps:
        for step in steps:
            display.show(step)


def _is_plain(model: str) -> bool:
    """Whether the name itself asks for HTTP without TLS: then its writer wants it."""
    return model.lower().startswith("http://")
