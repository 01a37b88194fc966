"""A Hugging Face directory of safetensors whose model_type the builder does not know: what its headers say."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.ggml import Bytes
from hearth_export.readers.repository import CONFIG, Repository, read_object, refuse_foreign
from hearth_export.readers.safetensors import open_shards
from hearth_export.readers.values import TensorInfo
from hearth_export.sentences import MODULES
from hearth_export.translation import refuse_quantized

DECODERS = ("CausalLM", "LMHeadModel")  # how the names of transformers' classes that write text end


class UnknownRepository(Repository):
    """An open directory."""

    format = "safetensors"

    @property
    def is_encoder(self) -> bool:
        classes = self.config.get("architectures")
        name = str(classes[0]) if isinstance(classes, list) and classes else ""
        return not name.endswith(DECODERS) or (self.path / MODULES).exists()

    @cached_property
    def tensors(self) -> MappingProxyType[str, TensorInfo]:
        infos = {}
        files = open_shards(self.path)
        try:
            for file in files:
                for name, stored in file.tensors.items():
                    infos[name] = TensorInfo(name, stored.shape, stored.dtype, 0, stored.offset, stored.nbytes)
        finally:
            for file in files:
                file.close()
        return MappingProxyType(infos)

    @property
    def float_bytes(self) -> int:
        """Bytes of all weights as float32."""
        return sum(4 * math.prod(info.shape) for info in self.tensors.values())

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Raises UnsupportedModel: nobody here knows what the tensor is for."""
        raise UnsupportedModel(
            f"{self.path}: {CONFIG}: model_type '{self.metadata['general.architecture']}' is not known to the builder: "
            "its weights can neither be merged nor quantized to GGUF"
        )


def open_unknown(path: Path) -> UnknownRepository:
    """The directory at `path`. Raises BadCheckpoint and UnsupportedModel, which name the file."""
    config: dict[str, Any] = read_object(path, CONFIG)
    if not config:
        raise BadCheckpoint(f"{path}: {CONFIG} is missing: this directory is no checkpoint of Hugging Face")
    refuse_foreign(path, config)
    refuse_quantized(config)
    repository = UnknownRepository(path, config)
    if not repository.tensors:
        raise BadCheckpoint(f"{path}: the safetensors files hold no tensors")
    return repository
