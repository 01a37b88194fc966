"""What all checkpoints have in common: their facts in GGUF's words, asked for one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, overload

from hearth_export.errors import BadCheckpoint
from hearth_export.readers.values import MetaArray, TensorInfo, Value, typed_value

T = TypeVar("T", str, int, float, bool, MetaArray)


class Words(ABC):
    """Metadata and tensors by GGUF's names; use it in `with`."""

    path: Path
    told_by = "config.json"  # which should say what is missing; "": the file itself

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By name."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Value]:
        """By key."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""

    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: None = None) -> T | None: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """The value, or `default` where the key is absent; BadCheckpoint where it has another type.

        A float may be stored as an integer.
        """
        value: T | None = typed_value(self.path, self.metadata, key, kind, default)
        return value

    def require(self, key: str, kind: type[T]) -> T:
        """As `get`, but BadCheckpoint where the key is absent."""
        value = self.get(key, kind)
        if value is None:
            missing = f"{self.told_by} does not say {key}" if self.told_by else f"{key} is missing from the metadata"
            raise BadCheckpoint(f"{self.path}: {missing}")
        return value

    def tensor(self, name: str) -> TensorInfo:
        """BadCheckpoint where there is no such tensor."""
        info = self.tensors.get(name)
        if info is None:
            raise BadCheckpoint(f"{self.path}: tensor {name} is missing")
        return info
