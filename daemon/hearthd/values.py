"""How the values of settings are read and shown."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from hearthd.duration import FOREVER_NS, SECOND_NS, UNITS_NS, keep_alive_ns
from hearthd.goals import GOALS

TRACE = 5  # log level below DEBUG


class Unreadable(ValueError):
    """A value that its setting's parser refuses. `instead` is used where it is not None, else the default."""

    def __init__(self, reason: str, instead: Any = None) -> None:
        super().__init__(reason)
        self.instead = instead


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting's text can be."""

    unit: str  # for the table
    parse: Callable[[str], Any]  # raises Unreadable
    accepts: str  # for people, after "it takes"
    show: Callable[[Any], str] = str
    is_secret: bool = False  # nobody is shown the text, readable or not


def parse_count(text: str) -> int:
    """A decimal number without sign. Raises Unreadable."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Unreadable("not a whole number")
    return int(text)


def count(unit: str, zero: int | None = None, most: int = 1 << 31) -> Kind:
    """A whole number up to `most`; 0 stands for `zero` where that is given."""

    def parse(text: str) -> int:
        number = parse_count(text)
        if number > most:
            raise Unreadable(f"more than {most}")
        return zero if number == 0 and zero is not None else number

    return Kind(unit, parse, f"a whole number, 0 to {most}")


def parse_endpoint(text: str) -> str:
    """The URL of a server, without a final "/". Raises Unreadable."""
    if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#@]*)?", text):
        raise Unreadable("not the address of a server")
    return text.rstrip("/")


ENDPOINT = Kind(
    "URL", parse_endpoint, "http://host or https://host, with a path where it has one", lambda url: url or "none"
)


def parse_secret(text: str) -> str:
    """What can stand in a header. Raises Unreadable."""
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise Unreadable("it has blanks or characters that no secret has")
    return text


SECRET = Kind(
    "secret", parse_secret, "letters, digits and signs", lambda text: "set" if text else "none", is_secret=True
)

FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True", "y", "yes", "on"))


def parse_bool(text: str) -> bool:
    """Go's spellings of true and false, yes and on. Raises Unreadable for other text, which other servers call true."""
    if text not in FALSE and text not in TRUE:
        raise Unreadable("neither true nor false", instead=True)
    return text in TRUE


def _show_bool(value: bool) -> str:
    return "true" if value else "false"


BOOL = Kind("bool", parse_bool, "true or false, 1 or 0", _show_bool)

SIZE_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes: `65536`, `500k`, `1.5MB`, `2 MiB`. Raises Unreadable."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(|[kmg]i?)b?", text.lower())
    if match is None:
        raise Unreadable("not a number of bytes")
    return int(Decimal(match[1]) * SIZE_UNITS[match[2]])


def size(unit: str, zero: int = 0) -> Kind:
    """Bytes; 0 stands for `zero`."""
    return Kind(unit, lambda text: parse_size(text) or zero, "a number of bytes such as 65536, 500k, 10MB or 2MiB")


def parse_keep_alive(text: str) -> int:
    """Nanoseconds of a Go duration or of bare seconds; negative: forever. Raises Unreadable."""
    try:
        return keep_alive_ns(text)
    except ValueError:
        return keep_alive_ns(_whole(text, "neither a duration nor a number of seconds"))


def parse_timeout(text: str) -> int:
    """As parse_keep_alive, and 0 too is forever."""
    return parse_keep_alive(text) or FOREVER_NS


def show_duration(length_ns: int) -> str:
    """`5m`, `1h30m`, `1.5s`, `forever`."""
    if length_ns >= FOREVER_NS:
        return "forever"
    text = ""
    for unit in ("h", "m"):
        number, length_ns = divmod(length_ns, UNITS_NS[unit])
        text += f"{number}{unit}" if number else ""
    return f"{text}{Decimal(length_ns) / SECOND_NS:f}s" if length_ns or not text else text


_DURATION = "a duration such as 90s, 5m or 1h30m, or a number of seconds"
KEEP_ALIVE = Kind("duration or seconds", parse_keep_alive, _DURATION, show_duration)
TIMEOUT = Kind("duration or seconds", parse_timeout, _DURATION, show_duration)


def _whole(text: str, reason: str) -> int:
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 18:
        raise Unreadable(reason)
    return int(text)


KV_TYPES = {"f32": "", "f16": "", "bf16": "", "q8_0": "q8_0", "q4_0": "q8_0"}


def parse_kv_type(text: str) -> str:
    """ "" for the float type of the variant, or "q8_0". Raises Unreadable."""
    held = KV_TYPES.get(text.lower())
    if held is None:
        raise Unreadable("no such type")
    return held


def parse_goal(text: str) -> str:
    """One of GOALS. Raises Unreadable."""
    if text.lower() not in GOALS:
        raise Unreadable("no such goal")
    return text.lower()


GOAL = Kind("goal", parse_goal, f"{', '.join(GOALS[:-1])} or {GOALS[-1]}")

KV_TYPE = Kind("type", parse_kv_type, "f32, f16 (held as f32), q8_0 or q4_0 (held as q8_0)", lambda held: held or "f32")

LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_LEVEL_NAMES = {level: name for name, level in reversed(LEVELS.items())} | {logging.CRITICAL: "critical"}
LEVELS |= dict.fromkeys(("t", "true"), logging.DEBUG) | dict.fromkeys(("f", "false"), logging.INFO)


def parse_log_level(text: str) -> int:
    """Level of the logging module from a name, true, false, or a number: 0 info, 1 debug. Raises Unreadable."""
    level = LEVELS.get(text.lower())
    if level is not None:
        return level
    steps = _whole(text, "no level")
    return TRACE if steps >= 2 else min(logging.CRITICAL, logging.INFO - 10 * steps)


LOG_LEVEL = Kind(
    "level",
    parse_log_level,
    "trace, debug, info, warn, error, or 0 for info, 1 for debug, 2 for trace",
    _LEVEL_NAMES.__getitem__,
)

LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
DEFAULT_ORIGINS = (
    *(f"{scheme}://{name}{port}" for name in LOCAL_NAMES for port in ("", ":*") for scheme in ("http", "https")),
    *APP_ORIGINS,
)


def parse_origins(text: str) -> tuple[str, ...]:
    """The configured origins, then those that are always allowed."""
    return tuple(origin.strip() for origin in text.split(",") if origin.strip()) + DEFAULT_ORIGINS


def _show_origins(origins: tuple[str, ...]) -> str:
    return ",".join((*origins[: -len(DEFAULT_ORIGINS)], "local ones"))


ORIGINS = Kind("list", parse_origins, "origins separated by commas", _show_origins)


def parse_path(text: str) -> Path:
    """An absolute path; `~` is the home directory. Raises Unreadable."""
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user; a working directory that is gone
        raise Unreadable("the directory that it starts from is not known") from error


def _show_path(path: Path | None) -> str:
    return "none" if path is None else str(path)


DIRECTORY = Kind("directory", parse_path, "a path", _show_path)
FILE = Kind("file", parse_path, "a path", _show_path)
