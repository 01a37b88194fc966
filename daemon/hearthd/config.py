"""Settings: one row of SETTINGS each, read from the environment into a frozen Config.

Each setting has its own variable, `HEARTH_*`, and most an alias, `OLLAMA_*`; the first that is set and
not empty counts. Blanks and quotes around a value are dropped. A value that cannot be read leaves the
default in force, and a warning in `Config.warnings`.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from hearthd.duration import FOREVER_NS, MINUTE_NS, SECOND_NS, keep_alive_ns

DEFAULT_PORT = 11434
SCHEME_PORTS = {"http": 80, "https": 443}
TRACE = 5  # log level below DEBUG


@dataclass(frozen=True, slots=True)
class Host:
    """Where the daemon listens, or where a client finds one."""

    scheme: str = "http"
    name: str = "127.0.0.1"  # IPv6 without brackets; "": every interface
    port: int = DEFAULT_PORT
    path: str = ""  # "/ollama" behind a proxy

    @property
    def url(self) -> str:
        """`http://127.0.0.1:11434`."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.scheme}://{name}:{self.port}{self.path}"

    @property
    def connectable(self) -> Host:
        """The host that a client on this machine connects to: an unspecified address becomes loopback."""
        loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return Host(self.scheme, loopback.get(self.name, self.name), self.port, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings in force. What each one means stands in SETTINGS."""

    host: Host
    models: Path
    cache: Path
    keep_alive_ns: int
    context_length: int
    num_parallel: int
    max_loaded_models: int
    max_queue: int
    load_timeout_ns: int
    drain_timeout_ns: int
    origins: tuple[str, ...]
    num_threads: int
    max_body_bytes: int
    noprune: bool
    log_level: int
    transfer_streams: int
    transfer_rate: int  # bytes a second; 0: unbounded
    transfer_stall_ns: int
    key: Path
    credentials: Path | None
    share: bool
    warnings: tuple[str, ...] = ()

    @property
    def debug(self) -> bool:
        """Whether the log tells more than a model's life."""
        return self.log_level <= logging.DEBUG


class Unreadable(ValueError):
    """A value that its setting's parser refuses. `instead` is used where it is not None, else the default."""

    def __init__(self, reason: str, instead: Any = None) -> None:
        super().__init__(reason)
        self.instead = instead


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of SETTINGS."""

    name: str  # field of Config
    variables: tuple[str, ...]  # the first one set counts
    parse: Callable[[str], Any]
    default: Any  # a value, or a function of the environment that returns it
    unit: str
    shown: str  # the default, for people
    help: str


def parse_host(text: str) -> Host:
    """`[scheme://]host[:port][/path]`. Raises Unreadable for a bad port, with the default port instead."""
    scheme, separator, rest = text.strip().partition("://")
    default_port = SCHEME_PORTS.get(scheme, DEFAULT_PORT)
    if not separator:
        scheme, rest, default_port = "http", text.strip(), DEFAULT_PORT
        if rest == "ollama.com":
            scheme, default_port = "https", SCHEME_PORTS["https"]
    address, slash, path = rest.partition("/")
    name, port_text = _split_port(address)
    path = slash + path.rstrip("/") if path else ""
    port = _port(port_text)
    if port_text is not None and port is None:
        raise Unreadable(f"port {port_text!r} is not 0-65535", Host(scheme, name, default_port, path))
    return Host(scheme, name, default_port if port is None else port, path)


def _split_port(address: str) -> tuple[str, str | None]:
    if _is_ipv6(address.strip("[]")):
        return address.strip("[]"), None
    name, colon, port_text = address.rpartition(":")
    if colon:
        return name.strip("[]"), port_text
    return address or "127.0.0.1", None


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def _port(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    return int(text) if int(text) <= 65535 else None


def parse_bool(text: str) -> bool:
    """Go's spellings of true and false; any other text means true."""
    return text not in ("0", "f", "F", "false", "FALSE", "False")


def parse_count(text: str) -> int:
    """A decimal number without sign. Raises Unreadable."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Unreadable("not a whole number")
    return int(text)


SIZE_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes: `65536`, `500k`, `1.5MB`, `2 MiB`. Raises Unreadable."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(|[kmg]i?)b?", text.lower())
    if match is None:
        raise Unreadable("not a number of bytes such as 65536, 500k, 10MB, 2MiB")
    return int(Decimal(match[1]) * SIZE_UNITS[match[2]])


def parse_keep_alive(text: str) -> int:
    """Nanoseconds of a Go duration or of bare seconds; negative: forever. Raises Unreadable."""
    try:
        return keep_alive_ns(text)
    except ValueError:
        return keep_alive_ns(_whole(text))


def parse_timeout(text: str) -> int:
    """As parse_keep_alive, and 0 too is forever."""
    return parse_keep_alive(text) or FOREVER_NS


def _whole(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > 18:
        raise Unreadable("neither a duration such as 5m, 90s, 1h30m nor a number of seconds")
    return int(text)


LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
LEVELS |= dict.fromkeys(("t", "true"), logging.DEBUG) | dict.fromkeys(("f", "false"), logging.INFO)


def parse_log_level(text: str) -> int:
    """Level of the logging module from a name, true, false, or a number: 0 info, 1 debug. Raises Unreadable."""
    level = LEVELS.get(text.lower())
    if level is not None:
        return level
    try:
        steps = _whole(text)
    except Unreadable:
        raise Unreadable("not one of trace, debug, info, warn, error, nor a number") from None
    return TRACE if steps >= 2 else min(logging.CRITICAL, logging.INFO - 10 * steps)


LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
DEFAULT_ORIGINS = (
    *(f"{scheme}://{name}{port}" for name in LOCAL_NAMES for port in ("", ":*") for scheme in ("http", "https")),
    *APP_ORIGINS,
)


def parse_origins(text: str) -> tuple[str, ...]:
    """The configured origins, then those that are always allowed."""
    return tuple(origin.strip() for origin in text.split(",") if origin.strip()) + DEFAULT_ORIGINS


def parse_path(text: str) -> Path:
    """An absolute path; `~` is the home directory. Raises Unreadable."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise Unreadable("the home directory is not known") from error


def _below(variable: str, fallback: str, *parts: str) -> Callable[[Mapping[str, str]], Path]:
    """A directory below $variable, or below `fallback` where it is not set to an absolute path."""

    def default(environ: Mapping[str, str]) -> Path:
        base = environ.get(variable, "")
        home = environ.get("HOME") or "/var/lib/hearth"
        return Path(base if base.startswith("/") else fallback.replace("~", home)).joinpath("hearth", *parts)

    return default


SETTINGS = (
    Setting(
        "host",
        ("HEARTH_HOST", "OLLAMA_HOST"),
        parse_host,
        Host(),
        "[scheme://]host[:port]",
        "127.0.0.1:11434",
        "where to listen; :11434 is every interface",
    ),
    Setting(
        "models",
        ("HEARTH_MODELS", "OLLAMA_MODELS"),
        parse_path,
        _below("XDG_DATA_HOME", "~/.local/share", "models"),
        "directory",
        "$XDG_DATA_HOME/hearth/models",
        "the model store; one made by Ollama can be used as it is",
    ),
    Setting(
        "cache",
        ("HEARTH_CACHE",),
        parse_path,
        _below("XDG_CACHE_HOME", "~/.cache", "variants"),
        "directory",
        "$XDG_CACHE_HOME/hearth/variants",
        "converted models, where the store is read-only",
    ),
    Setting(
        "keep_alive_ns",
        ("HEARTH_KEEP_ALIVE", "OLLAMA_KEEP_ALIVE"),
        parse_keep_alive,
        5 * MINUTE_NS,
        "duration or seconds",
        "5m",
        "how long an idle model stays loaded; negative: forever",
    ),
    Setting(
        "context_length",
        ("HEARTH_CONTEXT_LENGTH", "OLLAMA_CONTEXT_LENGTH"),
        lambda text: parse_count(text) or 4096,
        4096,
        "tokens",
        "4096",
        "context window where neither request nor model asks for one; 0: the default",
    ),
    Setting(
        "num_parallel",
        ("HEARTH_NUM_PARALLEL", "OLLAMA_NUM_PARALLEL"),
        lambda text: parse_count(text) or 1,
        1,
        "requests",
        "1",
        "requests that one model serves at a time",
    ),
    Setting(
        "max_loaded_models",
        ("HEARTH_MAX_LOADED_MODELS", "OLLAMA_MAX_LOADED_MODELS"),
        lambda text: parse_count(text) or 3,
        3,
        "models",
        "3",
        "models loaded at a time, where memory allows; 0: the default",
    ),
    Setting(
        "max_queue",
        ("HEARTH_MAX_QUEUE", "OLLAMA_MAX_QUEUE"),
        parse_count,
        512,
        "requests",
        "512",
        "requests that may wait for a model; beyond them 503 is answered",
    ),
    Setting(
        "load_timeout_ns",
        ("HEARTH_LOAD_TIMEOUT", "OLLAMA_LOAD_TIMEOUT"),
        parse_timeout,
        5 * MINUTE_NS,
        "duration or seconds",
        "5m",
        "a load that takes longer is given up; 0 or negative: never",
    ),
    Setting(
        "drain_timeout_ns",
        ("HEARTH_DRAIN_TIMEOUT",),
        parse_keep_alive,
        10 * SECOND_NS,
        "duration or seconds",
        "10s",
        "time for running requests to end after SIGTERM",
    ),
    Setting(
        "origins",
        ("HEARTH_ORIGINS", "OLLAMA_ORIGINS"),
        parse_origins,
        DEFAULT_ORIGINS,
        "list",
        "local ones",
        "more origins that browsers may call from, separated by commas; * is a wildcard",
    ),
    Setting(
        "num_threads",
        ("HEARTH_NUM_THREADS",),
        parse_count,
        0,
        "threads",
        "0",
        "threads of a runner where the request does not say; 0: one a core",
    ),
    Setting(
        "max_body_bytes",
        ("HEARTH_MAX_BODY_BYTES",),
        lambda text: parse_count(text) or 64 << 20,
        64 << 20,
        "bytes",
        "67108864",
        "size of a JSON request; uploaded blobs have no bound",
    ),
    Setting(
        "noprune",
        ("HEARTH_NOPRUNE", "OLLAMA_NOPRUNE"),
        parse_bool,
        False,
        "bool",
        "false",
        "keep blobs that no model uses",
    ),
    Setting(
        "log_level",
        ("HEARTH_LOG_LEVEL", "HEARTH_DEBUG", "OLLAMA_DEBUG"),
        parse_log_level,
        logging.INFO,
        "level",
        "info",
        "trace, debug, info, warn or error; 1 is debug, 2 trace",
    ),
    Setting(
        "transfer_streams",
        ("HEARTH_TRANSFER_STREAMS", "OLLAMA_MAX_TRANSFER_STREAMS"),
        lambda text: parse_count(text) or 4,
        4,
        "connections",
        "4",
        "connections by which one blob is pulled; 0: the default",
    ),
    Setting(
        "transfer_rate",
        ("HEARTH_TRANSFER_RATE",),
        parse_size,
        0,
        "bytes a second",
        "0",
        "bound of pulls and pushes together, such as 500k, 10MB or 2MiB; 0: none",
    ),
    Setting(
        "transfer_stall_ns",
        ("HEARTH_TRANSFER_STALL",),
        parse_timeout,
        30 * SECOND_NS,
        "duration or seconds",
        "30s",
        "a connection without bytes for so long is made anew; 0 or negative: never",
    ),
    Setting(
        "key",
        ("HEARTH_KEY",),
        parse_path,
        _below("XDG_DATA_HOME", "~/.local/share", "id_ed25519"),
        "file",
        "$XDG_DATA_HOME/hearth/id_ed25519",
        "the key that signs for registries; made where it is missing",
    ),
    Setting(
        "credentials",
        ("HEARTH_CREDENTIALS",),
        parse_path,
        None,
        "file",
        "none",
        "a Docker config.json with user names and passwords of registries",
    ),
    Setting(
        "share",
        ("HEARTH_SHARE",),
        parse_bool,
        False,
        "bool",
        "false",
        "serve the models, read-only, to other devices at /v2/",
    ),
)


def read_variable(environ: Mapping[str, str], name: str) -> str:
    """The variable's value without blanks and quotes around it; "" where it is not set."""
    return environ.get(name, "").strip().strip("\"'")


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """The settings that `environ` asks for. Never fails: see the module's text for values that cannot be read."""
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for setting in SETTINGS:
        values[setting.name] = _value(setting, environ, warnings)
    if values["host"].scheme == "https":
        warnings.append("HEARTH_HOST says https, but the daemon speaks plain HTTP; put a proxy before it for TLS")
    return Config(**values, warnings=tuple(warnings))


def _value(setting: Setting, environ: Mapping[str, str], warnings: list[str]) -> Any:
    default = setting.default(environ) if callable(setting.default) else setting.default
    for variable in setting.variables:
        text = read_variable(environ, variable)
        if not text.strip():
            continue
        try:
            return setting.parse(text)
        except Unreadable as error:
            value = default if error.instead is None else error.instead
            warnings.append(f"{variable}={text[:100]!r} is ignored ({error}); {_shown(value)} is used")
            return value
    return default


def _shown(value: Any) -> str:
    return value.url if isinstance(value, Host) else "the default"


def settings_table() -> str:
    """All settings for people: variables, unit, default, meaning; one line each, without a final newline."""
    rows = [("variable (or its alias)", "value", "default", "meaning")]
    rows += [(" ".join(row.variables), row.unit, row.shown, row.help) for row in SETTINGS]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    )
    return "\n".join(lines)
