"""mistral: Mistral 7B and Nemo, which llama.cpp files under llama; its first version sees a window."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from hearth_export.arch import llama
from hearth_export.arch.windows import translate_windows
from hearth_export.translation import Config, Translation, whole


def translate(config: Config, names: Collection[str]) -> Translation:
    """A Mistral checkpoint of Hugging Face in GGUF's words."""
    translation = llama.translate({"num_key_value_heads": 8, **config}, names)
    return replace(translation, metadata=translation.metadata | windows(config))


def windows(config: Config) -> dict[str, Any]:
    """The keys of windows; transformers gives every layer one, whatever `layer_types` says."""
    config = {key: value for key, value in config.items() if key != "layer_types"}
    return translate_windows(llama.PREFIX, config, whole(config, "num_hidden_layers"), 0)
