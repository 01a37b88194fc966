"""Checkpoints of several files: Hugging Face and ONNX repositories, kept as blobs like everything else.

    application/vnd.hearth.checkpoint.v1+json    the index: format, and digest and bytes of every file by its name
    application/vnd.hearth.checkpoint.file.v1    one of the files, its name in the layer's `name`

The digest of the index stands for the checkpoint: variants/<that>/ holds what was converted from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import msgspec

from hearthd.errors import StoreError
from hearthd.store.blobs import BlobStore

MAX_INDEX_BYTES = 4 << 20
MAX_FILES = 4096
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,254}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class IndexedFile(msgspec.Struct, frozen=True):
    """One file of a checkpoint."""

    digest: str  # "sha256:<hex>"
    size: int  # bytes


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint of several files consists of."""

    schema: int = 1
    format: str  # "safetensors", "onnx", "torch"
    files: dict[str, IndexedFile]  # by relative POSIX path, in order


_decoder = msgspec.json.Decoder(Index)


def encode_index(index: Index) -> bytes:
    """The index's bytes, the same for the same files. Raises StoreError for a name that is no safe relative path."""
    _check(index, "checkpoint")
    files = dict(sorted(index.files.items()))
    return msgspec.json.encode(msgspec.structs.replace(index, files=files))


def read_index(blobs: BlobStore, digest: str) -> Index | None:
    """The index in a blob; None where the blob is no index (a GGUF file). Raises StoreError for a damaged one."""
    if blobs.size(digest) > MAX_INDEX_BYTES:
        return None
    data = blobs.read(digest, MAX_INDEX_BYTES)
    if not data.startswith(b"{"):
        return None
    try:
        index = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StoreError(f"blob {digest}: the list of the checkpoint's files is damaged: {error}") from error
    _check(index, f"blob {digest}")
    return index


def laid_out(blobs: BlobStore, index: Index, parent: Path) -> AbstractContextManager[str]:
    """A directory below `parent` in which each file of the checkpoint is a link to its blob, until the block ends."""
    directory = TemporaryDirectory(prefix=f".tmp-{os.getpid()}-files-", dir=parent, ignore_cleanup_errors=True)
    try:
        _link(blobs, index.files, Path(directory.name))
    except BaseException:
        directory.cleanup()
        raise
    return directory


def _link(blobs: BlobStore, files: Mapping[str, IndexedFile], directory: Path) -> None:
    for name, file in files.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(blobs.path(file.digest).resolve())


def _check(index: Index, where: str) -> None:
    if not 0 < len(index.files) <= MAX_FILES:
        raise StoreError(f"{where}: {len(index.files)} files; 1 to {MAX_FILES} are possible")
    for name, file in index.files.items():
        parts = PurePosixPath(name).parts
        if name != "/".join(parts) or not all(_PART.fullmatch(part) for part in parts):
            raise StoreError(f"{where}: {name[:200]!r} is no name for a checkpoint's file")
        if not _DIGEST.fullmatch(file.digest) or file.size < 0:
            raise StoreError(f"{where}: {name}: digest or size is malformed")
