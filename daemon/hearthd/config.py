"""Settings: one row of SETTINGS each, read from the environment into a frozen Config.

Each setting has its own variable, `HEARTH_*`, and most an alias, `OLLAMA_*`; the first that is set and
not empty counts. Blanks and quotes around a value are dropped. A value that cannot be read leaves the
default in force and a sentence in `Config.faults`, and a daemon does not start with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hearthd.duration import MINUTE_NS, SECOND_NS
from hearthd.goals import BYTES
from hearthd.host import Host as Host
from hearthd.host import parse_host as parse_host
from hearthd.values import (
    BOOL,
    DEFAULT_ORIGINS,
    DIRECTORY,
    ENDPOINT,
    FILE,
    GOAL,
    KEEP_ALIVE,
    KV_TYPE,
    LOG_LEVEL,
    ORIGINS,
    SECRET,
    TIMEOUT,
    Kind,
    Unreadable,
    count,
    size,
)

DEFAULT = "default"  # in Config.set_by: no variable did
MAX_SHOWN_CHARS = 100  # of a value that cannot be read


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
    kv_cache_type: str  # "": as the variant says
    goal: str  # one of goals.GOALS
    memory_bytes: int  # 0: as much as is available
    prefix_cache_bytes: int  # on disk, of all models; 0: none
    packed_weights: bool
    hang_timeout_ns: int
    max_body_bytes: int
    noprune: bool
    log_level: int
    log_requests: bool
    transfer_streams: int
    transfer_rate: int  # bytes a second; 0: unbounded
    transfer_stall_ns: int
    key: Path
    credentials: Path | None
    hub_endpoint: str  # "": Hugging Face's own
    hub_token: str = field(repr=False)  # "": none
    share: bool
    policy: Path | None
    set_by: Mapping[str, str]  # field -> the variable that set it, or DEFAULT and perhaps why
    faults: tuple[str, ...] = ()  # values that cannot be read, a sentence each
    warnings: tuple[str, ...] = ()

    @property
    def debug(self) -> bool:
        """Whether the log tells more than a model's life."""
        return self.log_level <= logging.DEBUG


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of SETTINGS."""

    name: str  # field of Config
    variables: tuple[str, ...]  # the first one set counts
    kind: Kind
    default: Any  # a value, or a function of the environment that returns it
    shown: str  # the default, for people
    help: str
    live: bool = True  # a reload puts it in force

    def default_in(self, environ: Mapping[str, str]) -> Any:
        """The value where no variable is set."""
        return self.default(environ) if callable(self.default) else self.default


def _below(variable: str, fallback: str, *parts: str) -> Callable[[Mapping[str, str]], Path]:
    """A path below $variable, or below `fallback` where it is not set to an absolute path."""

    def default(environ: Mapping[str, str]) -> Path:
        base = environ.get(variable, "")
        home = environ.get("HOME") or "/var/lib/hearth"
        return Path(base if base.startswith("/") else fallback.replace("~", home)).joinpath("hearth", *parts)

    return default


HOST = Kind("[scheme://]host[:port]", parse_host, "[scheme://]host[:port], the port 0-65535", lambda host: host.url)

SETTINGS = (
    Setting(
        "host",
        ("HEARTH_HOST", "OLLAMA_HOST"),
        HOST,
        Host(),
        "127.0.0.1:11434",
        "where to listen; :11434 is every interface",
        live=False,
    ),
    Setting(
        "models",
        ("HEARTH_MODELS", "OLLAMA_MODELS"),
        DIRECTORY,
        _below("XDG_DATA_HOME", "~/.local/share", "models"),
        "$XDG_DATA_HOME/hearth/models",
        "the model store; one made by Ollama can be used as it is",
        live=False,
    ),
    Setting(
        "cache",
        ("HEARTH_CACHE",),
        DIRECTORY,
        _below("XDG_CACHE_HOME", "~/.cache", "variants"),
        "$XDG_CACHE_HOME/hearth/variants",
        "converted models, where the store is read-only",
        live=False,
    ),
    Setting(
        "keep_alive_ns",
        ("HEARTH_KEEP_ALIVE", "OLLAMA_KEEP_ALIVE"),
        KEEP_ALIVE,
        5 * MINUTE_NS,
        "5m",
        "how long an idle model stays loaded; negative: forever",
    ),
    Setting(
        "context_length",
        ("HEARTH_CONTEXT_LENGTH", "OLLAMA_CONTEXT_LENGTH"),
        count("tokens", zero=4096),
        4096,
        "4096",
        "context window where neither request nor model asks for one; 0: the default",
    ),
    Setting(
        "num_parallel",
        ("HEARTH_NUM_PARALLEL", "OLLAMA_NUM_PARALLEL"),
        count("requests", zero=1, most=64),
        1,
        "1",
        "requests that one model serves at a time; others wait",
    ),
    Setting(
        "max_loaded_models",
        ("HEARTH_MAX_LOADED_MODELS", "OLLAMA_MAX_LOADED_MODELS"),
        count("models", zero=3),
        3,
        "3",
        "models loaded at a time, where memory allows; 0: the default",
    ),
    Setting(
        "max_queue",
        ("HEARTH_MAX_QUEUE", "OLLAMA_MAX_QUEUE"),
        count("requests"),
        512,
        "512",
        "requests that may wait for a model; beyond them 503 is answered",
    ),
    Setting(
        "load_timeout_ns",
        ("HEARTH_LOAD_TIMEOUT", "OLLAMA_LOAD_TIMEOUT"),
        TIMEOUT,
        5 * MINUTE_NS,
        "5m",
        "a load that makes no progress for so long is given up; 0 or negative: never",
    ),
    Setting(
        "drain_timeout_ns",
        ("HEARTH_DRAIN_TIMEOUT",),
        KEEP_ALIVE,
        10 * SECOND_NS,
        "10s",
        "time for running requests to end after SIGTERM",
    ),
    Setting(
        "origins",
        ("HEARTH_ORIGINS", "OLLAMA_ORIGINS"),
        ORIGINS,
        DEFAULT_ORIGINS,
        "local ones",
        "more origins that browsers may call from, separated by commas; * is a wildcard",
    ),
    Setting(
        "num_threads",
        ("HEARTH_NUM_THREADS",),
        count("threads", most=1024),
        0,
        "0",
        "threads of a runner where the request does not say; 0: one a core",
    ),
    Setting(
        "kv_cache_type",
        ("HEARTH_KV_CACHE_TYPE", "OLLAMA_KV_CACHE_TYPE"),
        KV_TYPE,
        "",
        "f32",
        "how keys and values are held: f32 (f16 means the same), or q8_0 for a quarter of the memory",
    ),
    Setting(
        "goal",
        ("HEARTH_GOAL",),
        GOAL,
        BYTES,
        BYTES,
        "what models are converted for: bytes (memory and speed), prefill (long prompts, for more memory), fidelity "
        "(the words that floats would choose, for 1.6 times the time), float (a reference, for 8 times the memory)",
    ),
    Setting(
        "memory_bytes",
        ("HEARTH_MEMORY",),
        size("bytes"),
        0,
        "0",
        "memory that models may take together, such as 1500MiB; 0: what the system or its cgroup has available",
    ),
    Setting(
        "prefix_cache_bytes",
        ("HEARTH_PREFIX_CACHE",),
        size("bytes"),
        0,
        "0",
        "disk for evaluated prompts that survive an unload, such as 1GiB; 0: none",
    ),
    Setting(
        "packed_weights",
        ("HEARTH_PACKED_WEIGHTS",),
        BOOL,
        False,
        "false",
        "keep weights on disk as the processor wants them: memory that can be given back, for 2.5 times the disk",
    ),
    Setting(
        "hang_timeout_ns",
        ("HEARTH_HANG_TIMEOUT",),
        TIMEOUT,
        MINUTE_NS,
        "1m",
        "a runner that does not answer for so long is ended; 0 or negative: never",
    ),
    Setting(
        "max_body_bytes",
        ("HEARTH_MAX_BODY_BYTES",),
        size("bytes", zero=64 << 20),
        64 << 20,
        "67108864",
        "size of a JSON request; uploaded blobs have no bound",
    ),
    Setting(
        "noprune",
        ("HEARTH_NOPRUNE", "OLLAMA_NOPRUNE"),
        BOOL,
        False,
        "false",
        "at start, and when a model is replaced, keep blobs that no model uses",
    ),
    Setting(
        "log_level",
        ("HEARTH_LOG_LEVEL", "HEARTH_DEBUG", "OLLAMA_DEBUG"),
        LOG_LEVEL,
        logging.INFO,
        "info",
        "trace, debug, info, warn or error; 1 is debug, 2 trace",
    ),
    Setting(
        "log_requests",
        ("HEARTH_LOG_REQUESTS", "OLLAMA_DEBUG_LOG_REQUESTS"),
        BOOL,
        False,
        "false",
        "log method, path, status and milliseconds of every request",
    ),
    Setting(
        "transfer_streams",
        ("HEARTH_TRANSFER_STREAMS", "OLLAMA_MAX_TRANSFER_STREAMS"),
        count("connections", zero=4, most=64),
        4,
        "4",
        "connections by which one blob is pulled; 0: the default",
    ),
    Setting(
        "transfer_rate",
        ("HEARTH_TRANSFER_RATE",),
        size("bytes a second"),
        0,
        "0",
        "bound of pulls and pushes together, such as 500k, 10MB or 2MiB; 0: none",
    ),
    Setting(
        "transfer_stall_ns",
        ("HEARTH_TRANSFER_STALL",),
        TIMEOUT,
        30 * SECOND_NS,
        "30s",
        "a connection without bytes for so long is made anew; 0 or negative: never",
    ),
    Setting(
        "key",
        ("HEARTH_KEY",),
        FILE,
        _below("XDG_DATA_HOME", "~/.local/share", "id_ed25519"),
        "$XDG_DATA_HOME/hearth/id_ed25519",
        "the key that signs for registries; made where it is missing",
        live=False,
    ),
    Setting(
        "credentials",
        ("HEARTH_CREDENTIALS",),
        FILE,
        None,
        "none",
        "a Docker config.json with user names and passwords of registries",
    ),
    Setting(
        "hub_endpoint",
        ("HEARTH_HUB_ENDPOINT", "HF_ENDPOINT"),
        ENDPOINT,
        "",
        "none",
        "the server that stands in for Hugging Face's hub, for names on hf.co",
    ),
    Setting(
        "hub_token",
        ("HEARTH_HUB_TOKEN", "HF_TOKEN"),
        SECRET,
        "",
        "none",
        "the token for what is private or gated on Hugging Face's hub; sent to the hub and nowhere else",
    ),
    Setting(
        "share",
        ("HEARTH_SHARE",),
        BOOL,
        False,
        "false",
        "serve the models, read-only, to other devices at /v2/",
    ),
    Setting(
        "policy",
        ("HEARTH_POLICY",),
        FILE,
        None,
        "none",
        "a file that names the models to pull and to load at start",
    ),
)

_ON_CPU = "this version runs models on the CPU"
_REMOTE = "models never run elsewhere"
_NO_RUNNERS = "there are no runners to unpack"

# variables of other servers that mean nothing here, and why
IGNORED = {
    "OLLAMA_FLASH_ATTENTION": "attention is always computed piecewise",
    "OLLAMA_GPU_OVERHEAD": _ON_CPU,
    "OLLAMA_SCHED_SPREAD": _ON_CPU,
    "OLLAMA_IGPU_ENABLE": _ON_CPU,
    "OLLAMA_VULKAN": _ON_CPU,
    "OLLAMA_MAX_VRAM": _ON_CPU,
    "OLLAMA_LLM_LIBRARY": _NO_RUNNERS,
    "OLLAMA_RUNNERS_DIR": _NO_RUNNERS,
    "OLLAMA_TMPDIR": "temporary files lie in the model store",
    "OLLAMA_GO_TEMPLATE": "prompts come from the checkpoint's own template",
    "OLLAMA_REMOTES": _REMOTE,
    "OLLAMA_CLOUD_BASE_URL": _REMOTE,
    "OLLAMA_AUTH": "the API asks for no authentication",
    "OLLAMA_EXPERIMENT": "there are no experiments",
    "LLAMA_ARG_FIT": _ON_CPU,
    "LLAMA_ARG_FIT_TARGET": _ON_CPU,
    "CUDA_VISIBLE_DEVICES": _ON_CPU,
    "GGML_VK_VISIBLE_DEVICES": _ON_CPU,
    "GPU_DEVICE_ORDINAL": _ON_CPU,
    "HIP_VISIBLE_DEVICES": _ON_CPU,
    "HSA_OVERRIDE_GFX_VERSION": _ON_CPU,
    "ROCR_VISIBLE_DEVICES": _ON_CPU,
}

OF_THE_CLIENT = {"HEARTH_NOHISTORY"}  # read by the command line
ENV_FILE = "HEARTH_ENV_FILE"  # the file of variables that a reload reads again; see hearthd.reload


def read_variable(environ: Mapping[str, str], name: str) -> str:
    """The variable's value without blanks and quotes around it; "" where it is not set."""
    return environ.get(name, "").strip().strip("\"'")


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """The settings that `environ` asks for. Never fails: see the module's text for values that cannot be read."""
    values: dict[str, Any] = {}
    set_by: dict[str, str] = {}
    faults: list[str] = []
    for row in SETTINGS:
        variable = next((name for name in row.variables if read_variable(environ, name).strip()), DEFAULT)
        num_faults = len(faults)
        values[row.name] = _value(row, variable, environ, faults)
        set_by[row.name] = variable if len(faults) == num_faults else f"{DEFAULT}: {variable} cannot be read"
    return Config(**values, set_by=set_by, faults=tuple(faults), warnings=tuple(_warnings(values["host"], environ)))


def _value(row: Setting, variable: str, environ: Mapping[str, str], faults: list[str]) -> Any:
    if variable == DEFAULT:
        return row.default_in(environ)
    text = read_variable(environ, variable)
    try:
        return row.kind.parse(text)
    except Unreadable as error:
        shown = "***" if row.kind.is_secret else repr(text[:MAX_SHOWN_CHARS])
        faults.append(f"{variable}={shown} cannot be used: {error}; it takes {row.kind.accepts}")
        return row.default_in(environ) if error.instead is None else error.instead


def _warnings(host: Host, environ: Mapping[str, str]) -> list[str]:
    warnings = []
    if host.scheme == "https":
        warnings.append("HEARTH_HOST says https, but the daemon speaks plain HTTP; put a proxy before it for TLS")
    if idle := [f"{name} ({why})" for name, why in IGNORED.items() if read_variable(environ, name)]:
        warnings.append(f"set, but without effect here: {', '.join(idle)}")
    known = OF_THE_CLIENT.union([ENV_FILE], *(row.variables for row in SETTINGS))
    if unknown := sorted(name for name in environ if name.startswith("HEARTH_") and name not in known):
        warnings.append(f"no setting has this name: {', '.join(unknown)[:500]}; `hearth serve --help` lists them")
    return warnings


def settings_table(environ: Mapping[str, str] | None = None) -> str:
    """All settings for people, one line each, without a final newline.

    With an environment the line has the value in force and the variable that set it, else what it takes.
    """
    return table(_rows_of_defaults() if environ is None else _rows_in_force(environ))


def _rows_of_defaults() -> list[tuple[str, ...]]:
    rows = [(" ".join(row.variables), row.kind.unit, row.shown, row.help) for row in SETTINGS]
    return [("variable (or its alias)", "value", "default", "meaning"), *rows]


def _rows_in_force(environ: Mapping[str, str]) -> list[tuple[str, ...]]:
    config = load(environ)
    rows = [
        (" ".join(row.variables), row.kind.show(getattr(config, row.name)), config.set_by[row.name], row.help)
        for row in SETTINGS
    ]
    return [("variable (or its alias)", "value in force", "set by", "meaning"), *rows]


def table(rows: list[tuple[str, ...]]) -> str:
    """`rows` with their columns aligned; the last column is as long as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
