"""`hearth show`: what is known of one model."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from hearthd.command.amounts import count_text
from hearthd.command.client import Client
from hearthd.command.failure import CommandFailed
from hearthd.command.replies import Shown
from hearthd.command.table import table_text
from hearthd.command.terminal import plain

Rows = list[tuple[str, ...]]
ASPECTS = ("license", "modelfile", "parameters", "template", "system")

_VALUE_COLUMNS = 60
_TEXT_COLUMNS = 100
_TEXT_LINES = 2
_LIST_CHARS = 10


def define(parser: ArgumentParser) -> None:
    """The arguments of `show`."""
    parser.add_argument("model", metavar="MODEL")
    for aspect in ASPECTS:
        parser.add_argument(f"--{aspect}", action="store_true", help=f"only its {aspect}")
    parser.add_argument("-v", "--verbose", action="store_true", help="also all metadata and tensors")


def show(arguments: Namespace, client: Client) -> int:
    """Print what is known of the model, or one aspect of it."""
    asked = [aspect for aspect in ASPECTS if getattr(arguments, aspect)]
    if len(asked) > 1:
        raise CommandFailed(f"only one of {', '.join('--' + aspect for aspect in ASPECTS)} can be asked for at a time")
    shown = client.ask("/api/show", {"model": arguments.model, "verbose": arguments.verbose}, Shown)
    if asked:
        sys.stdout.write(plain(str(getattr(shown, asked[0]))).rstrip("\n") + "\n")
    else:
        sys.stdout.write(overview(shown, arguments.verbose))
    return 0


def overview(shown: Shown, verbose: bool = False) -> str:
    """All sections that have something to say."""
    sections = [
        _section("Model", _model_rows(shown)),
        _section("Capabilities", [("", name) for name in shown.capabilities or []]),
        _section("Projector", _projector_rows(shown.projector_info or {})),
        _section("Parameters", [("", *line.split(None, 1)) for line in shown.parameters.splitlines() if line.strip()]),
        _section("Metadata", _metadata_rows(shown.model_info or {}) if verbose else []),
        _section("Tensors", [("", t.name, t.type, _list(t.shape)) for t in shown.tensors or []] if verbose else []),
        _section("System", _first_lines(shown.system), _TEXT_COLUMNS),
        _section("License", _first_lines(shown.license), _TEXT_COLUMNS),
    ]
    return "".join(sections)


def _section(title: str, rows: Rows, max_width: int = _VALUE_COLUMNS) -> str:
    return f"  {title}\n{table_text(rows, max_width=max_width)}\n" if rows else ""


def _model_rows(shown: Shown) -> Rows:
    info = shown.model_info or {}
    architecture = str(info.get("general.architecture", shown.details.family))
    size = shown.details.parameter_size or _count(info.get("general.parameter_count"))
    rows = [
        ("architecture", architecture),
        ("parameters", size),
        ("context length", _number(info.get(f"{architecture}.context_length"))),
        ("embedding length", _number(info.get(f"{architecture}.embedding_length"))),
        ("quantization", shown.details.quantization_level or "unknown"),
        ("requires", shown.requires),
    ]
    return [("", name, value) for name, value in rows if value]


def _projector_rows(info: Mapping[str, Any]) -> Rows:
    architecture = str(info.get("general.architecture", ""))

    def of_either(suffix: str) -> Any:
        keys = (f"{architecture}.{kind}.{suffix}" for kind in ("vision", "audio"))
        return next((info[key] for key in keys if key in info), None)

    rows = [
        ("architecture", architecture),
        ("parameters", _count(info.get("general.parameter_count"))),
        ("embedding length", _number(of_either("embedding_length"))),
        ("dimensions", _number(of_either("projection_dim"))),
    ]
    return [("", name, value) for name, value in rows if value]


def _metadata_rows(info: Mapping[str, Any]) -> Rows:
    return [("", key, _value(info[key])) for key in sorted(info)]


def _value(value: Any) -> str:
    if value is None:
        return "(long)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _beginning(value) if isinstance(value, list) else str(value)


def _beginning(values: list[Any]) -> str:
    """As many members as fit in a column, one at least, and how many there are besides."""
    shown: list[str] = []
    for value in values:
        if shown and len(" ".join([*shown, str(value)])) > _LIST_CHARS:
            return f"[{' '.join(shown)} ...+{len(values) - len(shown)} more]"
        shown.append(str(value))
    return _list(values)


def _list(values: list[Any]) -> str:
    return f"[{' '.join(map(str, values))}]"


def _first_lines(text: str) -> Rows:
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    more = ["..."] if len(lines) > _TEXT_LINES else []
    return [("", line) for line in lines[:_TEXT_LINES] + more]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int) else ""


def _count(value: Any) -> str:
    return count_text(int(value)) if isinstance(value, int | float) else ""
