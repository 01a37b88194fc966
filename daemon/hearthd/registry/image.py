"""The config blob of a new model: what its checkpoint says, and what the client says instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hearthd.errors import BadRequest
from hearthd.registry.capabilities import capabilities, parameter_size
from hearthd.store.manifest import ImageConfig
from hearthd.store.variant import SourceInfo

_TEXTS = {
    "model_family": "model_family",
    "base_name": "base_name",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
_NUMBERS = {"context_length": "context_length", "embedding_length": "embedding_length"}
_MAX_NUMBER = (1 << 63) - 1


def image_config(source: SourceInfo) -> ImageConfig:
    """What the checkpoint says of itself."""
    return ImageConfig(
        model_format=source.format,
        model_family=source.architecture,
        model_families=(source.architecture,),
        model_type=parameter_size(source.parameter_count),
        file_type=source.file_type,
        architecture="amd64",
        os="linux",
        context_length=source.context_length,
        embedding_length=source.embedding_length,
        capabilities=capabilities(source),
    )


def check_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ImageConfig that a request's `info` sets; unknown ones are left out.

    Raises BadRequest naming the first field of a wrong type.
    """
    fields: dict[str, Any] = {_TEXTS[key]: _text(key, info[key]) for key in _TEXTS if key in info}
    fields |= {_NUMBERS[key]: _number(key, info[key]) for key in _NUMBERS if key in info}
    if "model_family" in fields:
        fields["model_families"] = (fields["model_family"],) if fields["model_family"] else ()
    if "capabilities" in info:
        fields["capabilities"] = _capabilities(info["capabilities"])
    return fields


def with_info(config: ImageConfig, fields: Mapping[str, Any]) -> ImageConfig:
    """`config` with fields that check_info gave."""
    return msgspec.structs.replace(config, **fields)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRequest(f'info field "{key}" must be a string')
    return value


def _number(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f'info field "{key}" must be a number')
    if value != value or not 0 <= value <= _MAX_NUMBER or int(value) != value:
        raise BadRequest(f'info field "{key}" must be a non-negative integer')
    return int(value)


def _capabilities(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise BadRequest('info field "capabilities" must be an array of strings')
    for at, item in enumerate(value):
        if not isinstance(item, str):
            raise BadRequest(f'info field "capabilities" element {at} must be a string')
    return tuple(value)
