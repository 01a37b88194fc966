"""What the exporter needs of an open checkpoint, whatever its format: GGUF's names for metadata and tensors.

A GGUF file is one as it is (`readers/gguf.py`). A Hugging Face directory becomes one by translation
(`readers/huggingface.py`): config.json into GGUF keys, tensor names into GGUF names, stored values left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar, overload

from hearth_export.errors import UnknownModelType
from hearth_export.ggml import Bytes
from hearth_export.readers.gguf import open_gguf
from hearth_export.readers.values import MetaArray, TensorInfo, Value

T = TypeVar("T", str, int, float, bool, MetaArray)


class Tensors(Protocol):
    """A checkpoint's tensors under their GGUF names, read by rows."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Rows start..stop as stored: (stop - start, row_bytes) uint8. Rows of a tensor of three dimensions (experts,
        rows, columns) count through all experts. Threads may read at once."""

    def release(self, name: str) -> None:
        """Gives the memory of what was read of `name` back. Who still reads it loses speed, no more."""


class Checkpoint(Tensors, Protocol):
    """Tensors, and what the checkpoint says of itself."""

    @property
    def path(self) -> Path:
        """The file, or the directory."""

    @property
    def format(self) -> str:
        """ "gguf", "safetensors" or "onnx"."""

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

    def read_file(self, name: str) -> bytes | None:
        """A file beside the tensors ("tokenizer.json", "1_Pooling/config.json"); None where there is none, as for GGUF.

        Raises BadCheckpoint where it cannot be read or is larger than such a file can be.
        """

    def release_all(self) -> None:
        """As `release`, for every tensor."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


OPTIMUM = "optimum"  # a route
EXTRA = "pip install 'hearthd[export]'"


def open_checkpoint(path: str | Path, route: str = "") -> Checkpoint:
    """The checkpoint at `path`: a GGUF file, or a directory with config.json and safetensors, with GGUF files
    only, or with ONNX graphs.

    Raises BadCheckpoint for what cannot be read, is truncated or contradicts itself, UnsupportedModel for what this
    version does not know.
    """
    path = Path(path)
    if not path.is_dir():
        return open_gguf(path)
    from hearth_export.readers.huggingface import CONFIG
    from hearth_export.readers.split import open_split

    if not (path / CONFIG).exists() and next(path.glob("*.gguf"), None) is not None:
        return open_split(path)
    if _is_onnx_repository(path):
        from hearth_export.readers.onnx import open_onnx

        return open_onnx(path)
    return _open_directory(path, route)


def _open_directory(path: Path, route: str) -> Checkpoint:
    """As the builder reads it; one that it does not know, or where `route` is OPTIMUM, as Optimum will."""
    from hearth_export.readers.huggingface import open_huggingface
    from hearth_export.readers.unknown import open_unknown

    if route == OPTIMUM:
        return open_unknown(path)
    try:
        return open_huggingface(path)
    except UnknownModelType as error:
        if find_spec("optimum") is None or find_spec("torch") is None:
            raise UnknownModelType(f"{error}: {EXTRA}") from None
        return open_unknown(path)


def _is_onnx_repository(path: Path) -> bool:
    """Whether the directory holds graphs, and no checkpoint that the builder could read instead."""
    return any(next(path.glob(graphs), None) for graphs in ("*.onnx", "onnx/*.onnx")) and not any(
        next(path.glob(weights), None) for weights in ("*.safetensors", "*.gguf")
    )
