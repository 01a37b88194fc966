"""What is wrong with a store. Nothing here changes it, and a daemon may be at work in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hearthd.errors import StoreError
from hearthd.store import names
from hearthd.store.blobs import CHUNK_BYTES, BlobStore, OnProgress, is_partial
from hearthd.store.manifest import MAX_MANIFEST_BYTES, Layer, Manifest, decode_manifest


@dataclass(frozen=True, slots=True)
class Entry:
    """A place where a manifest should be. `manifest` is None where it is damaged, and `reason` says how."""

    name: str  # "smollm2:135m", or the path where that is no model's
    manifest: Manifest | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Downloads and uploads that can be resumed."""

    num_blobs: int
    num_bytes: int  # on disk


def entries(manifests: Path) -> Iterator[Entry]:
    """Everything below `manifests`, in order of the paths; hidden files and directories are none of ours."""
    for path in sorted(manifests.glob("*/*/*/*")):
        parts = path.relative_to(manifests).parts
        if not any(part.startswith(".") for part in parts):
            yield _entry(path, parts)


def _entry(path: Path, parts: tuple[str, ...]) -> Entry:
    name = names.from_path(parts)
    if name is None:
        return Entry(str(path), None, "is not where a manifest can be")
    try:
        with path.open("rb") as file:
            return Entry(name.short, decode_manifest(file.read(MAX_MANIFEST_BYTES), str(path)))
    except OSError as error:
        return Entry(name.short, None, f"{path} cannot be read: {error.strerror}")
    except StoreError as error:
        return Entry(name.short, None, str(error))


def faults(blobs: BlobStore, manifest: Manifest) -> list[str]:
    """What the model's blobs lack: a sentence for each that is missing or has another size than the manifest says."""
    return [reason for part in manifest.needed if (reason := _fault(blobs, part))]


def _fault(blobs: BlobStore, part: Layer) -> str:
    try:
        size = blobs.path(part.digest).stat().st_size
    except FileNotFoundError:
        return f"blob {part.digest} ({part.media_type}) is missing"
    except OSError as error:
        return f"blob {part.digest} cannot be read: {error.strerror}"
    return "" if size == part.size else f"blob {part.digest} has {size} bytes instead of {part.size}"


def unfinished(blobs: BlobStore) -> Unfinished:
    """What can be resumed in the blobs' directory."""
    found = [path for path in _files(blobs.root) if is_partial(path.name)]
    digests = {path.name[: len("sha256-") + 64] for path in found}
    return Unfinished(len(digests), sum(_bytes_on_disk(path) for path in found))


def _files(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _bytes_on_disk(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512  # sparse files take less than their size
    except OSError:  # finished a moment ago
        return 0


def hash_blob(blobs: BlobStore, digest: str, on_progress: OnProgress) -> bool:
    """Whether the blob's content is what its digest says. Raises StoreError where it cannot be read."""
    size, done, hashing = blobs.size(digest), 0, hashlib.sha256()
    with blobs.open(digest) as file:
        while chunk := _chunk(file.read, digest):
            hashing.update(chunk)
            done += len(chunk)
            on_progress(done, max(size, done))
    return f"sha256:{hashing.hexdigest()}" == digest


def _chunk(read: Callable[[int], bytes], digest: str) -> bytes:
    try:
        return read(CHUNK_BYTES)
    except OSError as error:
        raise StoreError(f"blob {digest} cannot be read: {error.strerror}") from error
