"""What a command line means by a source: a file, a directory, or the name of a model in the store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hearth_export.errors import ExportError
from hearthd import repository
from hearthd.errors import HearthError
from hearthd.store import names
from hearthd.store.files import Index, IndexedFile, encode_index, laid_out, read_index
from hearthd.store.store import ModelStore, open_store

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint that was found."""

    path: Path  # a file or a directory
    digest: str  # "sha256:<hex>" of the file, or of the index of the directory's files
    variant_root: Path | None = None  # where the store wants its variants; None where it is none of the store's


@contextmanager
def located(source: str, digest: str | None = None, models: Path | None = None) -> Iterator[Located]:
    """The checkpoint that `source` means, for as long as the block runs.

    `digest` is taken for its digest, which is computed where there is none. `models` is the store's directory. Raises
    ExportError where there is neither a file nor a model of that name.
    """
    path = Path(source)
    if path.exists() or source.startswith(("/", ".", "~")):
        yield Located(path, _digest_of(path) if digest is None else digest)
        return
    with _of_store(source, models or store_root()) as found:
        yield found


def store_root() -> Path:
    """The directory of the model store, as the daemon finds it."""
    for variable in ("HEARTH_MODELS", "OLLAMA_MODELS"):
        if value := os.environ.get(variable):
            return Path(value).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "hearth" / "models"


@contextmanager
def _of_store(source: str, root: Path) -> Iterator[Located]:
    try:
        store = open_store(root) if (root / "manifests").is_dir() else None
        digest = store.resolve(names.parse(source)).source if store else None
    except HearthError as error:
        raise ExportError(f"{source[:200]} is neither a file nor a model of {root}: {error}") from error
    if store is None:
        raise ExportError(f"{source[:200]} is no file, and there is no model store at {root} (HEARTH_MODELS)")
    if digest is None or not store.blobs.has(digest):
        raise ExportError(f"the model {source[:200]} of {root} holds no checkpoint")
    with store.holding([digest]), _placed(store, digest) as path:
        yield Located(path, digest, store.variant_root(digest))


@contextmanager
def _placed(store: ModelStore, digest: str) -> Iterator[Path]:
    try:
        index = read_index(store.blobs, digest)
    except HearthError as error:
        raise ExportError(str(error)) from error
    if index is None:
        yield store.blobs.path(digest)
        return
    store.variants_root.mkdir(parents=True, exist_ok=True)
    with laid_out(store.blobs, index, store.variants_root) as directory:
        yield Path(directory)


def _digest_of(path: Path) -> str:
    """The digest that the store would know the checkpoint by."""
    if not path.is_dir():
        return _hashed(path).digest
    try:
        files = {name: _hashed(file) for name, file in repository.checkpoint_files(path).items()}
        if len(files) == 1 and repository.format_of(files) == repository.GGUF:
            return next(iter(files.values())).digest
        data = encode_index(Index(format=repository.format_of(files), files=files))
    except HearthError as error:
        raise ExportError(f"{path}: {error}") from error
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _hashed(path: Path) -> IndexedFile:
    hashing, num_bytes = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                hashing.update(block)
                num_bytes += len(block)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from error
    return IndexedFile("sha256:" + hashing.hexdigest(), num_bytes)
