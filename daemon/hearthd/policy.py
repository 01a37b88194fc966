"""The file that says which models a device has and loads at its start: TOML, see docs/boot.md.

[boot]
wait = true

[[models]]
name = "smollm2:135m"
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hearthd.errors import HearthError, InvalidName
from hearthd.store import names
from hearthd.store.names import ModelName
from hearthd.values import KEEP_ALIVE, Unreadable

MAX_FILE_BYTES = 64 << 10
MAX_MODELS = 256
MAX_NUM_CTX = 1 << 24  # tokens
SCHEMES = ("https", "http")


class PolicyFault(HearthError):
    """The file makes no sense; the sentence says where and what would."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the device is to have."""

    name: ModelName
    pull: bool = True  # fetched where it is not here
    load: bool = True  # loaded at the start
    keep_alive_ns: int | None = None  # None: as the settings say; FOREVER_NS: for ever
    num_ctx: int | None = None  # tokens; None: as the model or the settings say


class Policy(msgspec.Struct, frozen=True):
    """What is in the file."""

    models: tuple[Wanted, ...] = ()
    wait: bool = False  # the service is ready only when it is done with the models

    def keep_alive_by_name(self) -> dict[str, int]:
        """Nanoseconds by short name, of the models that have their own."""
        return {model.name.short: model.keep_alive_ns for model in self.models if model.keep_alive_ns is not None}


def read_policy(path: Path) -> Policy:
    """The policy in the file; an empty one where there is no file. PolicyFault names the place of a fault."""
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # opening it would wait for a writer
            raise PolicyFault(f"{path} is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Policy()
    except OSError as error:
        raise PolicyFault(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise PolicyFault(f"{path} has more than {MAX_FILE_BYTES} bytes")
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        raise PolicyFault(f"{path} is not UTF-8 text") from None
    except PolicyFault as fault:
        raise PolicyFault(f"{path}: {fault}") from None


def parse(text: str) -> Policy:
    """As read_policy, of a text; PolicyFault does not name the file."""
    import tomllib  # memory that a daemon without policy does without

    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyFault(f"it is not TOML: {str(error)[:200]}") from None
    _check_names(tables, ("boot", "models"), "", "table")
    boot = _table(tables.get("boot", {}), "[boot]")
    _check_names(boot, ("wait",), "[boot]: ", "key")
    rows = tables.get("models", [])
    if not isinstance(rows, list):
        raise PolicyFault("models is no list: each model has its own [[models]]")
    if len(rows) > MAX_MODELS:
        raise PolicyFault(f"it names {len(rows)} models, more than {MAX_MODELS}")
    models = tuple(_model(row, f"models row {number}: ") for number, row in enumerate(rows, 1))
    _check_distinct(models)
    return Policy(models, _bool(boot["wait"], "[boot]: wait") if "wait" in boot else False)


def _model(row: Any, where: str) -> Wanted:
    table = _table(row, where.removesuffix(": "))
    _check_names(table, tuple(_KEYS), where, "key")
    if "name" not in table:
        raise PolicyFault(f'{where}name is missing; it takes the name of a model such as "smollm2:135m"')
    read = {field: parse(table[key], where + key) for key, (field, parse) in _KEYS.items() if key in table}
    return Wanted(**read)


def _check_distinct(models: Iterable[Wanted]) -> None:
    rows: dict[tuple[str, ...], int] = {}
    for number, model in enumerate(models, 1):
        first = rows.setdefault(model.name.key, number)
        if first != number:
            raise PolicyFault(f"models row {number}: name: {model.name} stands in row {first} already")


def _check_names(table: Mapping[str, Any], known: tuple[str, ...], where: str, kind: str) -> None:
    unknown = next((name for name in table if name not in known), None)
    if unknown is None:
        return
    import difflib

    near = difflib.get_close_matches(unknown.lower(), known, 1)
    hint = f"; is {near[0]} meant?" if near else f"; there is {', '.join(known)}"
    raise PolicyFault(f"{where}there is no {kind} {unknown[:80]!r}{hint}")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PolicyFault(f"{where} is no table")
    return value


# the kinds of values


def _refused(where: str, value: Any, accepts: str, why: str = "") -> PolicyFault:
    return PolicyFault(f"{where} = {_shown(value)} cannot be used{why and ': ' + why}; it takes {accepts}")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value).lower() if isinstance(value, bool) else repr(value)[:100]


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _refused(where, value, "true or false")
    return value


def _name(value: Any, where: str) -> ModelName:
    accepts = "the name of a model as `hearth pull` takes it"
    if not isinstance(value, str):
        raise _refused(where, value, accepts)
    try:
        if names.is_cloud(value):
            raise _refused(where, value, accepts, "it runs on somebody else's machine")
        name = names.parse(names.split_origin(value)[0])
    except InvalidName:
        raise _refused(where, value, accepts, "it is no name") from None
    if name.scheme not in SCHEMES:
        raise _refused(where, value, accepts, "a registry is reached by https:// or http://")
    return name


def _keep_alive(value: Any, where: str) -> int:
    accepts = f'{KEEP_ALIVE.accepts}; "-1" is for ever'
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _refused(where, value, accepts)
    try:
        return int(KEEP_ALIVE.parse(str(value)))
    except Unreadable as error:
        raise _refused(where, value, accepts, str(error)) from None


def _num_ctx(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_NUM_CTX:
        raise _refused(where, value, f"a number of tokens, 1 to {MAX_NUM_CTX}")
    return value


# key -> field of Wanted, what reads it
_KEYS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "name": ("name", _name),
    "pull": ("pull", _bool),
    "load": ("load", _bool),
    "keep_alive": ("keep_alive_ns", _keep_alive),
    "num_ctx": ("num_ctx", _num_ctx),
}
