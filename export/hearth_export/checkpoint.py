"""What the exporter needs of an open checkpoint, whatever its format: GGUF's names for metadata and tensors.

A GGUF file is one as it is (`readers/gguf.py`). A Hugging Face directory becomes one by translation
(`readers/huggingface.py`): config.json into GGUF keys, tensor names into GGUF names, stored values left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeVar, overload

from hearth_export.ggml import Bytes
from hearth_export.readers.gguf import MetaArray, TensorInfo, Value

T = TypeVar("T", str, int, float, bool, MetaArray)


class Tensors(Protocol):
    """A checkpoint's tensors under their GGUF names, read by rows."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Rows start..stop as stored: (stop - start, row_bytes) uint8, valid until release. Rows of a tensor of three
        dimensions (experts, rows, columns) count through all experts."""

    def release(self, name: str) -> None:
        """Tells that what was read of `name` is not needed any more."""


class Checkpoint(Tensors, Protocol):
    """Tensors, and what the checkpoint says of itself."""

    @property
    def path(self) -> Path:
        """The file, or the directory."""

    @property
    def format(self) -> str:
        """ "gguf" or "safetensors"."""

    @property
    def metadata(self) -> Mapping[str, Value]: ...

    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: None = None) -> T | None: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """The value, or `default` where the key is absent. A float may be stored as an integer.

        Raises BadCheckpoint naming file, key and value where it has another type.
        """

    def require(self, key: str, kind: type[T]) -> T:
        """As `get`, but BadCheckpoint where the key is absent."""

    def tensor(self, name: str) -> TensorInfo:
        """BadCheckpoint where there is no such tensor."""
