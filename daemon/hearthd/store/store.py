"""The models on disk, in the layout that Ollama uses, and their variants beside them.

    <root>/manifests/<host>/<namespace>/<model>/<tag>
    <root>/blobs/sha256-<hex>
    <root>/variants/<hex of the source>/<variant>/
    <root>/prefixes/<hex of the source>/

A model exists when its manifest does; writing the manifest is the last act of whatever makes a model.
Blobs that no manifest mentions are garbage, unless somebody holds them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hearthd.errors import ModelNotFound, StoreError
from hearthd.goals import BYTES
from hearthd.store import names
from hearthd.store.blobs import BlobStore, digest_hex, is_partial
from hearthd.store.contents import ModelContents, read_contents
from hearthd.store.durable import DIR_MODE, TEMP_PREFIX, explained, write_file
from hearthd.store.manifest import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    ImageConfig,
    Manifest,
    decode_config,
    decode_manifest,
)
from hearthd.store.names import ModelName
from hearthd.store.prompts import SavedPrompts
from hearthd.store.removal import (
    clear_abandoned,
    clear_unwritten,
    directories,
    remove_empty_below,
    remove_file,
    remove_tree,
)
from hearthd.store.variant import SOURCE_FILE, SourceInfo, VariantInfo, read_source, read_variant

log = logging.getLogger(__name__)

GARBAGE_AGE_S = 3600  # younger files may belong to something unfinished
PARTIAL_AGE_S = 7 * 24 * 3600  # a download that was not resumed for so long

_MENTION = re.compile(rb"sha256[:-]([0-9a-fA-F]{64})")
_HEX = re.compile(r"[0-9a-f]{64}")

Stamp = tuple[int, int, int]  # mtime ns, bytes, inode: another stamp is another file


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model whose manifest and config were read."""

    name: ModelName
    digest: str  # 64 hex digits, sha256 of the manifest's bytes
    modified_at: datetime  # of the manifest file, with the local offset
    size: int  # bytes of all blobs
    manifest: Manifest
    config: ImageConfig

    @property
    def source(self) -> str | None:
        """Digest of the checkpoint, `sha256:<hex>`; None where the model has none."""
        return self.manifest.source


class ModelStore:
    """Everything below `root`. `variants` is where converted models go; by default below `root`.

    With `writable` False, models can be listed and read, and nothing below `root` is ever changed.
    """

    def __init__(self, root: Path, *, variants: Path | None = None, writable: bool = True, goal: str = BYTES) -> None:
        self.root = root
        self.goal = goal  # what checkpoints are converted for
        self.writable = writable
        self.manifests = root / "manifests"
        self.blobs = BlobStore(root / "blobs")
        self.variants_root = variants or root / "variants"
        self.prefix_dir = (variants or root) / "prefixes"
        self.prompts = SavedPrompts(self.prefix_dir)
        self._read_models: dict[ModelName, tuple[Stamp, StoredModel]] = {}
        self._contents: dict[str, ModelContents] = {}
        self._warned: set[str] = set()
        self._held: Counter[str] = Counter()
        self._spared: set[str] = set()  # unused, but held
        self._changing = threading.Lock()  # of two who change one manifest, the later sees what the earlier did

    # models

    def models(self) -> list[StoredModel]:
        """All readable models, the one changed last first. A damaged one is left out, with one warning in the log."""
        found = [model for name in self._names() if (model := self._try_read(name)) is not None]
        return sorted(found, key=lambda model: (-int(model.modified_at.timestamp()), model.name))

    def resolve(self, name: ModelName, asked: str = "") -> StoredModel:
        """The model of this name, whatever its case.

        Raises ModelNotFound, speaking of `asked` where given, and StoreError where the model is damaged.
        """
        model = self._read(name) or self._read(self.spelling(name))
        if model is None:
            raise ModelNotFound(asked or name.short)
        return model

    def spelling(self, name: ModelName) -> ModelName:
        """`name` in the case of what is here: of the same model, else of its host, namespace, model."""
        if self._manifest_path(name).is_file():
            return name
        for existing in self._names():
            if existing.key == name.key:
                return existing
        parts: list[str] = []
        for part in name.path:
            parts.append(_as_spelled(self.manifests.joinpath(*parts), part))
        return names.from_path(tuple(parts)) or name

    def contents(self, model: StoredModel) -> ModelContents:
        """What the model's layers say. Raises StoreError naming the blob that is missing or damaged."""
        contents = self._contents.get(model.digest)
        if contents is None:
            contents = read_contents(self.blobs, model.manifest)
            if len(self._contents) >= 16:
                self._contents.clear()
            self._contents[model.digest] = contents
        return contents

    def write_manifest(self, name: ModelName, data: bytes) -> StoredModel:
        """Make `data` the manifest of `name`, byte for byte, and only once all its blobs are here.

        Raises StoreError where the manifest is damaged, a blob is missing or the disk refuses.
        """
        self.check_writable()
        manifest = decode_manifest(data, name.short)
        for part in manifest.needed:
            if not self.blobs.has(part.digest):
                raise StoreError(f"{name.short}: blob {part.digest} is missing, so its manifest is not written")
        write_file(self._manifest_path(name), data)
        model = self._read(name)
        if model is None:
            raise StoreError(f"{name.short}: its manifest vanished while it was written")
        return model

    def manifest_bytes(self, name: ModelName) -> bytes:
        """The model's manifest as it is stored. Raises ModelNotFound, StoreError."""
        path = self._manifest_path(self.resolve(name).name)
        try:
            return _read_bounded(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error

    def replace_manifest(self, name: ModelName, data: bytes) -> set[str]:
        """As write_manifest, in the spelling of what is here; digests of the model that was there before.

        Nobody may need those any more: see remove_unused. None where there was no model, or a damaged one.
        """
        with self._changing:
            target = self.spelling(name)
            try:
                replaced = {part.digest for part in self.resolve(target).manifest.parts}
            except (ModelNotFound, StoreError):
                replaced = set()
            self.write_manifest(target, data)
        return replaced

    def copy(self, source: ModelName, destination: ModelName) -> set[str]:
        """Give the model a second name; blobs are shared. As replace_manifest; raises ModelNotFound of `source`."""
        model = self.resolve(source)
        if self.spelling(destination) == model.name:
            return set()
        return self.replace_manifest(destination, self.manifest_bytes(model.name))

    def delete(self, name: ModelName, asked: str = "") -> None:
        """Remove the model, and what only it used. Raises ModelNotFound, speaking of `asked` where given."""
        self.check_writable()
        with self._changing:
            path = self._manifest_path(self.spelling(name))
            if not path.is_file():
                raise ModelNotFound(asked or name.short)
            with explained(path.parent):
                mentioned = _mentions(path)
                path.unlink()
            self._remove_empty_above(path)
        self.remove_unused(f"sha256:{hex_digits}" for hex_digits in mentioned)

    # garbage

    @contextmanager
    def holding(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep these blobs and their variants from being removed as unused, for as long as the block runs.

        What was to be removed meanwhile is removed at the end, unless a manifest mentions it by then.
        """
        held = [digest_hex(digest) for digest in digests]
        self._held.update(held)
        try:
            yield
        finally:
            self._held.subtract(held)
            self._held += Counter()  # drops what is held no more
            if due := self._spared - set(self._held):
                self._spared -= due
                self.remove_unused(f"sha256:{hex_digits}" for hex_digits in due)

    def remove_unused(self, digests: Iterable[str]) -> list[str]:
        """Remove those of `digests` that no manifest mentions and nobody holds, variants included; those removed."""
        used = self._used()
        if used is None:
            return []
        wanted = dict.fromkeys(digests)
        self._spared.update(hex_digits for hex_digits in map(digest_hex, wanted) if hex_digits in self._held)
        unused = [digest for digest in wanted if digest_hex(digest) not in used]
        for digest in unused:
            self.blobs.remove(digest)
            remove_tree(self.variant_root(digest))
            self.prompts.forget(digest)
        return unused

    def tidy(self) -> None:
        """Remove what dead processes left unfinished, and the saved prompts of models that are gone.

        For the start of the daemon. Nothing below `root` on a read-only store.
        """
        if self.writable:
            with explained(self.blobs.root):
                self.blobs.tidy()
            clear_unwritten(self.manifests.glob(f"*/*/*/{TEMP_PREFIX}*"))
        clear_abandoned(self.variants_root)
        for directory in directories(self.variants_root):
            clear_abandoned(directory)
            clear_unwritten([*directory.glob(f"{TEMP_PREFIX}*"), *directory.glob(f"*/{TEMP_PREFIX}*")])
        self.prompts.tidy()
        if (used := self._used()) is not None:
            self.prompts.forget_unused(used)

    def prune(self, now: float | None = None) -> None:
        """Remove garbage older than an hour: blobs and variants of no manifest, foreign files, empty directories.

        `now` is in seconds since the epoch. Nothing on a read-only store, nor where a manifest cannot be read.
        """
        used = self._used()
        if not self.writable or used is None:
            return
        now = time.time() if now is None else now
        for digest in self.blobs.digests():
            if digest_hex(digest) not in used and _age_s(self.blobs.path(digest), now) > GARBAGE_AGE_S:
                self.blobs.remove(digest)
        for path in self.blobs.strangers():
            if _age_s(path, now) > (PARTIAL_AGE_S if is_partial(path.name) else GARBAGE_AGE_S):
                remove_file(path)
        for directory in directories(self.variants_root):
            if _HEX.fullmatch(directory.name) and directory.name not in used and _age_s(directory, now) > GARBAGE_AGE_S:
                remove_tree(directory)
        for path in self.manifests.glob(f"*/*/*/{TEMP_PREFIX}*"):
            if _age_s(path, now) > GARBAGE_AGE_S:
                remove_file(path)
        remove_empty_below(self.manifests)

    # variants

    def variant_root(self, digest: str) -> Path:
        """The directory of a checkpoint's variants; it need not exist. Raises InvalidDigest."""
        return self.variants_root / digest_hex(digest)

    def source_info(self, digest: str) -> SourceInfo | None:
        """What the checkpoint says of itself, or None where it was never converted."""
        return read_source(self.variant_root(digest) / SOURCE_FILE)

    def variants(self, digest: str) -> list[tuple[Path, VariantInfo]]:
        """The complete variants of a checkpoint, those for this store's goal first."""
        found = ((path, read_variant(path)) for path in directories(self.variant_root(digest)))
        complete = [(path, info) for path, info in found if info is not None]
        return sorted(complete, key=lambda variant: (not variant[1].serves(self.goal), variant[0]))

    # inside

    def _manifest_path(self, name: ModelName) -> Path:
        return self.manifests.joinpath(*name.path)

    def _manifest_paths(self, skip: Callable[[OSError], None] | None = None) -> Iterator[Path]:
        """OSError where a directory cannot be read, unless `skip` hears of it."""
        for host in _listed(directories, self.manifests, skip):
            for namespace in _listed(directories, host, skip):
                for model in _listed(directories, namespace, skip):
                    yield from _listed(_shown, model, skip)

    def _skip(self, error: OSError) -> None:
        text = f"{error.filename} cannot be read: {error.strerror}; the models in it are skipped"
        self._warn_once(str(error.filename), text)

    def _names(self) -> list[ModelName]:
        found = []
        for path in self._manifest_paths(self._skip):
            name = names.from_path(path.relative_to(self.manifests).parts)
            if name is None:
                self._warn_once(str(path), f"{path} is not where a manifest can be; skipped")
            else:
                found.append(name)
        return found

    def _try_read(self, name: ModelName) -> StoredModel | None:
        try:
            return self._read(name)
        except StoreError as error:
            self._warn_once(name.full, f"{name.short} is skipped: {error}")
            return None

    def _read(self, name: ModelName) -> StoredModel | None:
        path = self._manifest_path(name)
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._read_models.get(name)
            if known is not None and known[0] == stamp:
                return known[1]
            data = _read_bounded(path)
        except (FileNotFoundError, NotADirectoryError):
            self._read_models.pop(name, None)
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
        model = self._decode(name, data, status.st_mtime, str(path))
        self._read_models[name] = (stamp, model)
        return model

    def _decode(self, name: ModelName, data: bytes, mtime: float, where: str) -> StoredModel:
        manifest = decode_manifest(data, where)
        config = self.blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
        return StoredModel(
            name=name,
            digest=hashlib.sha256(data).hexdigest(),
            modified_at=datetime.fromtimestamp(mtime).astimezone(),
            size=manifest.size_bytes,
            manifest=manifest,
            config=decode_config(config, f"blob {manifest.config.digest}"),
        )

    def _used(self) -> set[str] | None:
        """Hex digests that a manifest, readable or not, mentions, or that are held; None: one cannot be read."""
        used = set(self._held)
        try:
            for path in self._manifest_paths():
                used |= _mentions(path)
        except OSError as error:
            log.warning("nothing is removed from the store: %s cannot be read: %s", error.filename, error.strerror)
            return None
        return used

    def _remove_empty_above(self, path: Path) -> None:
        for directory in list(path.parents)[:3]:
            with suppress(OSError):  # not empty
                directory.rmdir()

    def check_writable(self) -> None:
        """Raises StoreError where nothing can be changed."""
        if not self.writable:
            raise StoreError(f"the store {self.root} is read-only; set HEARTH_MODELS to a writable directory")

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("%s", message)


def open_store(root: Path, cache: Path | None = None, goal: str = BYTES) -> ModelStore:
    """The store at `root`, created where it is missing; its checkpoints are converted for `goal`.

    A store that cannot be written is opened for reading, its variants below `cache`.
    Raises StoreError where there is no store and none can be made.
    """
    kept = (root, root / "manifests", root / "blobs")
    for directory in (*kept, root / "variants", root / "prefixes"):
        _check_readable(directory, root)
    try:
        for directory in kept:
            directory.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
    except OSError as error:
        if not (root / "manifests").is_dir():
            raise StoreError(f"the store {root} cannot be made: {error.strerror}; set HEARTH_MODELS") from error
    writable = all(os.access(path, os.W_OK | os.X_OK, effective_ids=True) for path in kept)
    return ModelStore(root, variants=None if writable else cache, writable=writable, goal=goal)


def _check_readable(directory: Path, root: Path) -> None:
    """Raises StoreError where the directory is there and cannot be read."""
    try:
        with os.scandir(directory):
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        user = _user_name()
        raise StoreError(
            f"the store {root} cannot be read by the user {user}: {directory}: {error.strerror}; give it to that user, "
            f"as with `chown -R {user}: {root}`, or set HEARTH_MODELS"
        ) from error


def _listed(read: Callable[[Path], list[Path]], parent: Path, skip: Callable[[OSError], None] | None) -> list[Path]:
    try:
        return read(parent)
    except OSError as error:
        if skip is None:
            raise
        skip(error)
        return []


def _shown(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if not path.name.startswith("."))


def _user_name() -> str:
    """The name of this process's user, or its number."""
    import pwd  # for one sentence

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _as_spelled(directory: Path, part: str) -> str:
    if not (directory / part).exists():
        for path in directories(directory):
            if path.name.lower() == part.lower():
                return path.name
    return part


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise StoreError(f"{path} has more than {MAX_MANIFEST_BYTES} bytes, too many for a manifest")
    return data


def _mentions(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with path.open("rb") as file:
        return {match[1].decode().lower() for match in _MENTION.finditer(file.read(MAX_MANIFEST_BYTES))}


def _age_s(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:
        return 0.0
