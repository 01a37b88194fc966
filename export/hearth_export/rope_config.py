"""Rotary settings of config.json in GGUF's words: metadata keys, and tensors of factors as conversion computes them.

config.json has them at its top and in `rope_scaling`; newer ones in `rope_parameters`, there sometimes for each kind of
layer: transformers' modeling_rope_utils.py tells what each type means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hearth_export import rope
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.translation import Config, flag, number, whole

FULL, SLIDING = "full_attention", "sliding_attention"
BLOCKS = ("rope_parameters", "rope_scaling")
DEFAULT_BASE = 10000.0


@dataclass(frozen=True, slots=True)
class RopeWords:
    """What a Translation takes over."""

    metadata: dict[str, Any]
    vectors: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """The rotary settings that config.json has for a kind of layer; an error names where they stand."""

    config: Config
    where: str  # "rope_scaling"
    block: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """ "default", "linear", "llama3" ..."""
        value = self.block.get("rope_type") or self.block.get("type") or "default"
        return value if isinstance(value, str) else str(value)[:64]

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.where}.{key}"
        return number({name: self.block.get(key)}, name, default)

    def flag(self, key: str, default: bool) -> bool:
        name = f"{self.where}.{key}"
        return flag({name: self.block.get(key)}, name, default)

    def numbers(self, key: str) -> list[float]:
        name, values = f"{self.where}.{key}", self.block.get(key)
        if not isinstance(values, list):
            raise BadCheckpoint(f"config.json: {name} is no list of numbers")
        return [number({name: value}, name) for value in values]

    def either(self, key: str, default: float) -> float:
        """A number that may stand beside the block too."""
        return self.number(key) if self.block.get(key) is not None else number(self.config, key, default)

    @property
    def original_context(self) -> int | None:
        """The window before the context was made longer, where config.json says so."""
        key = "original_max_position_embeddings"
        if self.block.get(key) is not None:
            name = f"{self.where}.{key}"
            return whole({name: self.block[key]}, name)
        return whole(self.config, key) if self.config.get(key) is not None else None


def rope_config(config: Config, layers: str = FULL) -> RopeConfig:
    """The settings of a kind of layer."""
    for name in BLOCKS:
        block = config.get(name)
        if block is None:
            continue
        if not isinstance(block, Mapping):
            raise BadCheckpoint(f"config.json: {name} is no object")
        if FULL in block or SLIDING in block:
            name, block = f"{name}.{layers}", block.get(layers) or {}
        if not isinstance(block, Mapping):
            raise BadCheckpoint(f"config.json: {name} is no object")
        return RopeConfig(config, name, block)
    return RopeConfig(config, BLOCKS[1], {})


def translate_rope(architecture: str, config: Config, head_dim: int, default_base: float = DEFAULT_BASE) -> RopeWords:
    """The keys `{architecture}.rope.*` of layers that see everything, and tensors of factors where there are any."""
    settings = rope_config(config)
    translated = _KINDS.get(settings.kind)
    if translated is None:
        known = ", ".join(_KINDS)
        raise UnsupportedModel(
            f"config.json: {settings.where} is of type '{settings.kind}', which cannot be converted (known: {known})"
        )
    base = settings.either("rope_theta", default_base)
    if not rope.MIN_BASE <= base <= rope.MAX_BASE:
        raise BadCheckpoint(f"config.json: rope_theta is {base}, outside {rope.MIN_BASE:g}..{rope.MAX_BASE:g}")
    dim = rotary_dim(settings, head_dim)
    words = translated(settings, base, dim)
    metadata = {"rope.freq_base": base, "rope.dimension_count": dim, **words.metadata}
    return RopeWords({f"{architecture}.{key}": value for key, value in metadata.items()}, words.vectors)


def plain_base(config: Config, layers: str, default: float) -> float:
    """The base of a kind of layer whose frequencies are not scaled. UnsupportedModel where they are."""
    settings = rope_config(config, layers)
    if settings.kind != "default":
        raise UnsupportedModel(f"config.json: {settings.where} is of type '{settings.kind}'; only default can be")
    return settings.number("rope_theta", default)


def rotary_dim(settings: RopeConfig, head_dim: int) -> int:
    """How many values of a head turn."""
    share = settings.either("partial_rotary_factor", 1.0)
    dim = int(head_dim * share) if 0 < share <= 1 else 0
    if dim < 2 or dim % 2:
        raise BadCheckpoint(
            f"config.json: partial_rotary_factor is {share}; of {head_dim} values an even number must turn"
        )
    return dim


def _default(settings: RopeConfig, base: float, dim: int) -> RopeWords:
    return RopeWords({"rope.scaling.type": "none"})


def _linear(settings: RopeConfig, base: float, dim: int) -> RopeWords:
    return RopeWords({"rope.scaling.type": "linear", "rope.scaling.factor": settings.number("factor")})


def _dynamic(settings: RopeConfig, base: float, dim: int) -> RopeWords:
    """Frequencies change only beyond `max_position_embeddings`, which is the context that a variant has."""
    return RopeWords({"rope.scaling.type": "none"})


def _yarn(settings: RopeConfig, base: float, dim: int) -> RopeWords:
    factor = settings.number("factor")
    original = settings.original_context or whole(settings.config, "max_position_embeddings")
    growth = _yarn_growth(settings, factor)
    return RopeWords(
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": factor,
            "rope.scaling.original_context_length": original,
            "rope.scaling.yarn_beta_fast": settings.number("beta_fast", 32.0) or 32.0,
            "rope.scaling.yarn_beta_slow": settings.number("beta_slow", 1.0) or 1.0,
            "rope.scaling.attn_factor": growth / rope.yarn_growth(factor),  # GGUF's comes on top of the usual growth
            rope.TRUNCATE: settings.flag("truncate", True),
        }
    )


def _yarn_growth(settings: RopeConfig, factor: float) -> float:
    """What cos and sin are multiplied by."""
    if settings.block.get("attention_factor") is not None:
        return settings.number("attention_factor")
    mscale, all_dim = settings.number("mscale", 0.0), settings.number("mscale_all_dim", 0.0)
    if not mscale or not all_dim:
        return rope.yarn_growth(factor)
    if mscale < 0 or all_dim < 0:
        raise BadCheckpoint(f"config.json: {settings.where} has a negative mscale or mscale_all_dim")
    usual = rope.yarn_growth(factor) - 1
    return (mscale * usual + 1) / (all_dim * usual + 1)


def _llama3(settings: RopeConfig, base: float, dim: int) -> RopeWords:
    """Slow frequencies are divided by `factor`, fast ones kept, those between divided by something between."""
    factor, low, high = (settings.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if not (1 <= factor <= rope.MAX_FACTOR and 0 < low < high):
        raise BadCheckpoint(
            f"config.json: {settings.where} has the factors {factor}, {low} and {high}, which make no llama3 scaling"
        )
    original = settings.original_context
    if original is None:
        raise BadCheckpoint(f"config.json: {settings.where}.original_max_position_embeddings is missing")

    def divisor(index: int) -> float:
        turns = original * math.pow(base, -2 * index / dim) / (2 * math.pi)  # within the original window
        if turns > high:
            return 1.0
        if turns < low:
            return factor
        kept = (turns - low) / (high - low)
        return 1 / ((1 - kept) / factor + kept)

    return RopeWords({}, {rope.FACTORS: [divisor(index) for index in range(dim // 2)]})


def _longrope(settings: RopeConfig, base: float, dim: int) -> RopeWords:
    context = whole(settings.config, "max_position_embeddings")
    original = settings.original_context
    factor = context / original if original else settings.number("factor", 1.0)
    original = original or context
    growth = math.sqrt(1 + math.log(factor) / math.log(max(2, original))) if factor > 1 else 1.0
    metadata = {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": settings.number("attention_factor", growth),
    }
    factors = {rope.LONG_FACTORS: settings.numbers("long_factor"), rope.SHORT_FACTORS: settings.numbers("short_factor")}
    return RopeWords(metadata, factors)


_KINDS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
    "su": _longrope,  # what Phi-3 called it first
}
