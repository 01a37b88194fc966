"""Sliding windows: which layers see only the last tokens, and how many of them."""

from __future__ import annotations

from typing import Any

from hearth_export.arch.facts import MAX_CONTEXT, MAX_LAYERS, Facts
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.translation import Config, whole

WINDOW = "attention.sliding_window"
PATTERN = "attention.sliding_window_pattern"
FULL, SLIDING = "full_attention", "sliding_attention"


def read_windows(facts: Facts, num_layers: int, period: int, default: int = 0) -> tuple[int, ...]:
    """How many tokens each layer sees, 0 for all; () where all layers see all tokens.

    `period` counts layers from one that sees everything to the next where the checkpoint does not say it, and
    `default` is the window then: 0 for none. A period of 1 means no window, one of 0 windows everywhere.
    """
    window = facts.count(WINDOW, MAX_CONTEXT, default, least=0)
    sliding = facts.per_layer(PATTERN, num_layers)
    if sliding is None:
        period = facts.count(PATTERN, MAX_LAYERS, period, least=0)
        sliding = [int(period == 0 or (layer + 1) % period != 0) for layer in range(num_layers)]
    windows = tuple(window if slides else 0 for slides in sliding)
    return windows if any(windows) else ()


def translate_windows(architecture: str, config: Config, num_layers: int, period: int) -> dict[str, Any]:
    """The keys of windows; none where `sliding_window` is null. `layer_types` says which layers have one, else every
    layer has but each `period`-th; 0: every layer."""
    if config.get("sliding_window") is None:
        return {}
    sliding = sliding_layers(config, num_layers, period)
    if not any(sliding):
        return {}
    return {f"{architecture}.{WINDOW}": whole(config, "sliding_window"), f"{architecture}.{PATTERN}": sliding}


def sliding_layers(config: Config, num_layers: int, period: int) -> list[bool]:
    """Which layers see a window only."""
    types = config.get("layer_types")
    if types is None:
        return [period == 0 or (layer + 1) % period != 0 for layer in range(num_layers)]
    if not isinstance(types, list) or len(types) < num_layers:
        raise BadCheckpoint(f"config.json: layer_types is no list of a type for each of {num_layers} layers")
    for kind in types:
        if kind not in (FULL, SLIDING):
            raise UnsupportedModel(
                f"config.json: layer_types names {str(kind)[:64]!r}; layers of {FULL} and {SLIDING} can be converted"
            )
    return [kind == SLIDING for kind in types[:num_layers]]
