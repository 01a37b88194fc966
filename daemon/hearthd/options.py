"""Model options: names, types, defaults, and how a model's and a request's values are checked and merged."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from hearthd.errors import BadRequest, HearthError

log = logging.getLogger(__name__)

INT64_MAX = (1 << 63) - 1


class Kind(StrEnum):
    """Type of an option, in the words of the error sentence."""

    INTEGER = "integer"
    FLOAT = "float32"
    BOOLEAN = "boolean"
    STRINGS = "array"


class OptionError(HearthError):
    """A request's or a stored model's option has the wrong JSON type. Answered with 500, as clients know it."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Every option with its default. None: nobody asked, the server decides."""

    # load-time
    num_ctx: int | None = None  # tokens; None: Config.context_length
    num_batch: int = 512  # prompt tokens evaluated at once
    num_gpu: int = -1  # decoder layers on the GPU; -1: as many as fit, 0: none
    main_gpu: int | None = None
    num_thread: int = 0  # 0: the server decides
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    numa: bool = False
    low_vram: bool = False
    f16_kv: bool = True
    logits_all: bool = False
    vocab_only: bool = False
    draft_num_predict: int | None = None

    # sampling
    num_keep: int = 4  # tokens; < 0: the whole prompt
    num_predict: int = -1  # new tokens; < 0: no bound but 10 * num_ctx
    seed: int = -1  # -1: another one each time
    temperature: float = 0.8  # 0: greedy
    top_k: int = 40  # <= 0: off
    top_p: float = 0.9  # 1: off
    min_p: float = 0.0
    tfs_z: float = 1.0  # 1: off
    typical_p: float = 1.0  # 1: off
    repeat_last_n: int = 64  # tokens; 0: off, -1: num_ctx
    repeat_penalty: float = 1.0  # 1: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    mirostat: int = 0  # 0: off, 1 or 2: the algorithm
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    penalize_newline: bool = True
    stop: tuple[str, ...] = ()


OPTIONS: dict[str, Kind] = {
    "num_ctx": Kind.INTEGER,
    "num_batch": Kind.INTEGER,
    "num_gpu": Kind.INTEGER,
    "main_gpu": Kind.INTEGER,
    "num_thread": Kind.INTEGER,
    "use_mmap": Kind.BOOLEAN,
    "use_mlock": Kind.BOOLEAN,
    "numa": Kind.BOOLEAN,
    "low_vram": Kind.BOOLEAN,
    "f16_kv": Kind.BOOLEAN,
    "logits_all": Kind.BOOLEAN,
    "vocab_only": Kind.BOOLEAN,
    "draft_num_predict": Kind.INTEGER,
    "num_keep": Kind.INTEGER,
    "num_predict": Kind.INTEGER,
    "seed": Kind.INTEGER,
    "temperature": Kind.FLOAT,
    "top_k": Kind.INTEGER,
    "top_p": Kind.FLOAT,
    "min_p": Kind.FLOAT,
    "tfs_z": Kind.FLOAT,
    "typical_p": Kind.FLOAT,
    "repeat_last_n": Kind.INTEGER,
    "repeat_penalty": Kind.FLOAT,
    "presence_penalty": Kind.FLOAT,
    "frequency_penalty": Kind.FLOAT,
    "mirostat": Kind.INTEGER,
    "mirostat_tau": Kind.FLOAT,
    "mirostat_eta": Kind.FLOAT,
    "penalize_newline": Kind.BOOLEAN,
    "stop": Kind.STRINGS,
}

Value = int | float | bool | tuple[str, ...]


def check_option(name: str, value: object) -> Value:
    """The JSON value of option `name` in the option's own type: integers are cut toward zero.

    Raises OptionError where the JSON type does not fit, KeyError where there is no such option.
    """
    kind = OPTIONS[name]
    if kind is Kind.STRINGS:
        return _strings(name, value)
    if kind is Kind.BOOLEAN:
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return _integer(value) if kind is Kind.INTEGER else float(value)
    raise OptionError(f'option "{name}" must be of type {kind}')


def parse_parameter(name: str, text: str) -> Value:
    """The value of `PARAMETER name text`; one member of the list for `stop`. Raises BadRequest."""
    kind = OPTIONS.get(name)
    match kind:
        case None:
            raise BadRequest(f"unknown parameter '{name}'")
        case Kind.STRINGS:
            return (text,)
        case Kind.BOOLEAN:
            return _parse_bool(text)
        case Kind.INTEGER:
            return _parse_int(text)
        case Kind.FLOAT:
            return _parse_float(text)


def merge(*layers: Mapping[str, Any] | None, defaults: Options | None = None) -> Options:
    """`defaults` (those of Options where None) overlaid by each of `layers`, the last one strongest.

    null leaves what is below; unknown names are ignored, with a warning in the log. Raises OptionError.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        for name, value in (layer or {}).items():
            if name not in OPTIONS:
                log.warning("option %.80r is unknown and ignored", name)
            elif value is not None:
                values[name] = check_option(name, value)
    return msgspec.structs.replace(defaults or Options(), **values)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise OptionError(f'option "{name}" must be of type {Kind.STRINGS}')
    if not all(isinstance(item, str) for item in value):
        raise OptionError(f'option "{name}" must be of an array of strings')
    return tuple(value)


def _integer(value: float) -> int:
    return max(-INT64_MAX - 1, min(INT64_MAX, int(value)))


def _parse_bool(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise BadRequest(f"invalid bool value [{text[:100]}]")


def _parse_int(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 20 or abs(int(text)) > INT64_MAX:
        raise BadRequest(f"invalid int value [{text[:100]}]")
    return int(text)


def _parse_float(text: str) -> float:
    try:
        value = float(text) if text.isascii() and "_" not in text and text == text.strip() else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"invalid float value [{text[:100]}]")
    return value
