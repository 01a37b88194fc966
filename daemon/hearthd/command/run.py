"""`hearth run`: one prompt answered, or a conversation."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from hearthd.command.answer import Answer
from hearthd.command.client import Client
from hearthd.command.failure import CommandFailed, ServerRefused
from hearthd.command.replies import Chunk, Nothing, Shown, Vectors
from hearthd.command.spinner import Spinner
from hearthd.command.summary import summary
from hearthd.command.wire import fetch
from hearthd.duration import keep_alive_ns

MAX_PROMPT_BYTES = 64 << 20
MAX_SCHEMA_BYTES = 1 << 20
TRUTH = {"true": True, "false": False}
THINK = {"true": True, "false": False, "low": "low", "medium": "medium", "high": "high", "max": "max"}


def define(parser: ArgumentParser) -> None:
    """The arguments of `run`."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what is piped in stands before it")
    parser.add_argument("--verbose", action="store_true", help="tell what each answer took")
    parser.add_argument("--keepalive", default="", metavar="DURATION", help="how long the model stays loaded: 5m, -1m")
    parser.add_argument("--insecure", action="store_true", help="where the model is to be pulled first: see pull")
    parser.add_argument("--nowordwrap", action="store_true", help="break no lines between words")
    parser.add_argument("--format", default="", help="json, or a file with a JSON schema")
    parser.add_argument("--think", choices=THINK, help="--think, or --think=LEVEL: let the model think first")
    parser.add_argument("--dimensions", type=int, default=0, help="of the vector that an embedding model makes")
    parser.add_argument("--truncate", choices=TRUTH, help="false: refuse a text that an embedding model cannot hold")
    parser.add_argument("--hidethinking", action="store_true", help="do not show what it thinks")


def run(arguments: Namespace, client: Client) -> int:
    """Answer the prompt of the command line and of standard input, or talk where there is none."""
    fields = request_fields(arguments)
    prompt = _prompt(arguments.prompt)
    shown = _shown(client, arguments.model, arguments.insecure)
    if makes_vectors(shown):
        return _vector(arguments, client, fields, prompt or "")
    if prompt is None:
        from hearthd.command.conversation import Conversation

        return Conversation(client, arguments, fields, shown).talk()
    return _once(arguments, client, fields, prompt)


def request_fields(arguments: Namespace) -> dict[str, Any]:
    """What the options say to the server. CommandFailed for one that cannot be read."""
    fields: dict[str, Any] = {}
    if arguments.keepalive:
        fields["keep_alive"] = _keep_alive(arguments.keepalive)
    if arguments.format:
        fields["format"] = read_format(arguments.format)
    if arguments.think is not None:
        fields["think"] = THINK[arguments.think]
    return fields


def _keep_alive(text: str) -> str | int:
    """A Go duration as it is, a number as seconds."""
    if text.removeprefix("-").isdecimal():
        return int(text)
    try:
        keep_alive_ns(text)
    except ValueError as error:
        raise CommandFailed(f"--keepalive: {error}") from None
    return text


def read_format(text: str) -> Any:
    """`json`, or the schema that `text` is, or that stands in the file of that name. Raises CommandFailed."""
    if text == "json":
        return text
    source, schema = ("the format", text) if text.lstrip().startswith("{") else (text[:200], _file(text))
    try:
        return json.loads(schema)
    except ValueError as error:
        raise CommandFailed(f"{source} is no JSON schema: {error}") from None


def _file(name: str) -> str:
    try:
        with Path(name).expanduser().open("rb") as file:
            data = file.read(MAX_SCHEMA_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandFailed(f"the format is json, or a file with a JSON schema; {name[:200]}: {reason}") from None
    if len(data) > MAX_SCHEMA_BYTES:
        raise CommandFailed(f"{name[:200]} exceeds {MAX_SCHEMA_BYTES} bytes, so it is no JSON schema")
    return data.decode("utf-8", "replace")


def _prompt(words: list[str]) -> str | None:
    """What is to be answered; None where a person sits at the terminal and gave no prompt."""
    piped = "" if sys.stdin.isatty() else _piped()
    if words or not sys.stdin.isatty() or not sys.stdout.isatty():
        return " ".join([piped, *words] if piped else words)
    return None


def _piped() -> str:
    data = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise CommandFailed(f"standard input exceeds {MAX_PROMPT_BYTES} bytes, more than a prompt can have")
    return data.decode("utf-8", "replace")


def _shown(client: Client, model: str, insecure: bool) -> Shown:
    """What is known of the model, which is pulled where it is missing."""
    try:
        return client.ask("/api/show", {"model": model}, Shown)
    except ServerRefused as error:
        if error.status != 404:
            raise
    fetch(client, model, insecure)
    return client.ask("/api/show", {"model": model}, Shown)


def _once(arguments: Namespace, client: Client, fields: dict[str, Any], prompt: str) -> int:
    payload = {"model": arguments.model, "prompt": prompt, **fields}
    if not prompt:
        return load(client, payload)
    answer = Answer(wrap=not arguments.nowordwrap, hide_thinking=arguments.hidethinking)
    answer.show(client.stream("/api/generate", payload, Chunk))
    sys.stdout.write("\n")
    sys.stdout.flush()
    if arguments.verbose:
        sys.stderr.write("\n" + summary(answer.last))
    return 0


def makes_vectors(shown: Shown) -> bool:
    """Whether the model makes embeddings and no text."""
    can = shown.capabilities or []
    return "embedding" in can and "completion" not in can


def _vector(arguments: Namespace, client: Client, fields: dict[str, Any], text: str) -> int:
    """Print the vector of a text as a JSON list."""
    if not text:
        raise CommandFailed(
            f'{arguments.model} makes embeddings: give it a text, hearth run {arguments.model} "a text"'
        )
    payload = {"model": arguments.model, "input": text, "dimensions": arguments.dimensions}
    payload |= {name: value for name, value in fields.items() if name == "keep_alive"}
    if arguments.truncate is not None:
        payload["truncate"] = TRUTH[arguments.truncate]
    (vector,) = client.ask("/api/embed", payload, Vectors).embeddings
    sys.stdout.write(json.dumps(vector) + "\n")
    sys.stdout.flush()
    return 0


def load(client: Client, payload: dict[str, Any]) -> int:
    """Bring the model into memory, a spinner meanwhile; 0."""
    fields = {name: value for name, value in payload.items() if name in ("model", "keep_alive")}
    with Spinner():
        client.ask("/api/generate", fields | {"stream": False}, Nothing)
    return 0
