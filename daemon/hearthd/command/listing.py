"""`hearth list` and `hearth ps`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime

from hearthd.command.amounts import distance_text, moment, size_text
from hearthd.command.client import Client
from hearthd.command.replies import Model, Models
from hearthd.command.table import table_text

ID_CHARS = 12


def define(parser: ArgumentParser) -> None:
    """The arguments of `list` and `ps`."""
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin so")


def list_models(arguments: Namespace, client: Client) -> int:
    """Print the models that the server has."""
    now = datetime.now(UTC)
    rows = [
        (model.name, model.digest[:ID_CHARS], size_text(model.size), distance_text(moment(model.modified_at), now))
        for model in _models(client, "/api/tags", arguments.prefix)
    ]
    sys.stdout.write(table_text(rows, ("NAME", "ID", "SIZE", "MODIFIED")))
    return 0


def list_loaded(arguments: Namespace, client: Client) -> int:
    """Print the models that are loaded."""
    now = datetime.now(UTC)
    rows = [
        (
            model.name,
            model.digest[:ID_CHARS],
            size_text(model.size),
            processor(model),
            str(model.context_length),
            until(model, now),
        )
        for model in _models(client, "/api/ps", arguments.prefix)
    ]
    sys.stdout.write(table_text(rows, ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL")))
    return 0


def _models(client: Client, path: str, prefix: str) -> list[Model]:
    models = client.get(path, Models).models or []
    return [model for model in models if model.name.lower().startswith(prefix.lower())]


def processor(model: Model) -> str:
    """Where the model lies: `100% CPU`, `100% GPU`, or the shares of both."""
    if model.size_vram == 0:
        return "100% CPU"
    if model.size_vram > model.size:
        return "Unknown"
    if model.size_vram == model.size:
        return "100% GPU"
    percent = int((model.size - model.size_vram) / model.size * 100 + 0.5)
    return f"{percent}%/{100 - percent}% CPU/GPU"


def until(model: Model, now: datetime) -> str:
    """When the model leaves memory."""
    then = moment(model.expires_at)
    return "Stopping..." if then is not None and then < now else distance_text(then, now)
