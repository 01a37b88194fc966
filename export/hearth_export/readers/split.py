"""A GGUF model in several files, as llama-gguf-split makes them: the first holds the metadata, each some tensors.

Keys: `split.no`, `split.count` and `split.tensors.count`, of llama.cpp's tools/gguf-split/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from hearth_export.errors import BadCheckpoint
from hearth_export.ggml import Bytes
from hearth_export.readers.gguf import GGUF, open_gguf
from hearth_export.readers.values import TensorInfo, Value
from hearth_export.readers.words import Words

MAX_PARTS = 1024
PREFIX = "split."


class SplitGGUF(Words):
    """The open parts, in order."""

    format = "gguf"
    told_by = ""

    def __init__(self, path: Path, parts: list[GGUF]) -> None:
        self.path = path
        self._parts = parts
        self._owners = {name: part for part in parts for name in part.tensors}
        self._tensors = MappingProxyType({name: part.tensors[name] for name, part in self._owners.items()})
        first = parts[0].metadata
        self._metadata = MappingProxyType({key: first[key] for key in first if not key.startswith(PREFIX)})

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Of all parts, by name."""
        return self._tensors

    @property
    def metadata(self) -> Mapping[str, Value]:
        """By key, without what tells of the parts."""
        return self._metadata

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def raw_value(self, key: str) -> bytes:
        """The bytes of a key's value as stored, its type id before it."""
        return self._parts[0].raw_value(key)

    def read_file(self, name: str) -> bytes | None:
        """None: the files hold everything themselves."""
        return None

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Rows start..stop as stored: a read-only view of a mapping."""
        self.tensor(name)
        return self._owners[name].rows(name, start, stop)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Gives the pages of the rows back to the kernel."""
        self.tensor(name)
        self._owners[name].release(name, start, stop)

    def release_all(self) -> None:
        for part in self._parts:
            part.release_all()


def open_split(directory: Path) -> SplitGGUF | GGUF:
    """The GGUF model in a directory: one file, or all parts of one.

    Raises BadCheckpoint naming the part that is missing, damaged or of another model, UnsupportedModel as open_gguf.
    """
    files = sorted(directory.glob("*.gguf"))
    if len(files) == 1:
        return open_gguf(files[0])
    if len(files) > MAX_PARTS:
        raise BadCheckpoint(f"{directory}: {len(files)} GGUF files; a model has {MAX_PARTS} parts at most")
    with ExitStack() as stack:
        parts = [stack.enter_context(open_gguf(file, is_part=True)) for file in files]
        ordered = _ordered(parts)
        stack.pop_all()
        return SplitGGUF(directory, ordered)


def _ordered(parts: list[GGUF]) -> list[GGUF]:
    """The parts by their numbers, none missing, none holding what another has."""
    numbered: dict[int, GGUF] = {}
    for part in parts:
        number, count = part.get("split.no", int, -1), part.get("split.count", int, 0)
        if count != len(parts) or not 0 <= number < count:
            said = f"part {number + 1} of {count}" if count else "no part of another"
            raise BadCheckpoint(
                f"{part.path}: it says that it is {said}, but {len(parts)} GGUF files lie in its directory: "
                "there must be all parts of one model, and no other file"
            )
        if number in numbered:
            raise BadCheckpoint(f"{part.path} and {numbered[number].path} both are part {number + 1}")
        numbered[number] = part
    ordered = [numbered[number] for number in sorted(numbered)]
    _refuse_doubled(ordered)
    return ordered


def _refuse_doubled(parts: list[GGUF]) -> None:
    seen: set[str] = set()
    for part in parts:
        if doubled := seen & part.tensors.keys():
            raise BadCheckpoint(f"{part.path}: tensor {min(doubled)[:64]!r} is in another part too")
        seen |= part.tensors.keys()
    total = parts[0].get("split.tensors.count", int, len(seen))
    if total != len(seen):
        raise BadCheckpoint(f"{parts[0].path}: split.tensors.count is {total}, but the parts hold {len(seen)} tensors")
