"""Evaluated prompts on disk, so that a model that comes back reads them instead of evaluating them again.

    <root>/<sha256 hex of the source>/<key of all else that makes the numbers>/<sha256 of the tokens>.kv

They are a cache of what users wrote: nobody else may read them, the least recently used go first, and whatever
goes wrong costs a file, never a request. Several runners share the root.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort

from hearthd import __version__
from hearthd.engine.kvform import KVForm
from hearthd.engine.prefixfile import (
    DamagedPrefix,
    Ids,
    Layout,
    PrefixHeader,
    Slot,
    read_header,
    read_values,
    write_prefix,
)
from hearthd.engine.rotations import is_long
from hearthd.store.durable import TEMP_PREFIX, free_bytes, sync_directory, temp_path
from hearthd.store.variant import VariantInfo

MIN_TOKENS = 64  # fewer are evaluated as fast as saved
MIN_FREE_BYTES = 64 << 20  # what a save leaves to others
NEARLY_ALL = 0.8  # of a prompt: who has so much of it stands for it
SAVE_TIMEOUT_S = 8.0
SUFFIX = ".kv"
FILE_MODE = 0o600
DIR_MODE = 0o700

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SavedPrefix:
    """A file, by what its header says."""

    path: Path
    inode: int
    header: PrefixHeader

    def serves(self, tokens: Ids, num_exact: int) -> bool:
        """Whether it makes a file of these tokens needless: it has nearly all of them, and is as long."""
        held = self.header
        common = num_common(held.tokens, tokens)
        return (
            len(held.tokens) >= len(tokens)
            and common >= NEARLY_ALL * len(tokens)
            and min(common, held.num_exact) >= NEARLY_ALL * num_exact
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and how many of its leading tokens a prompt can go on from."""

    prefix: SavedPrefix
    num_tokens: int

    @property
    def num_exact(self) -> int:
        """How many of the file's leading tokens are exact."""
        return self.prefix.header.num_exact


@dataclass(frozen=True, slots=True, order=True)
class _File:
    used_ns: int  # wall clock
    num_bytes: int
    path: Path


def prefix_key(info: VariantInfo, form: KVForm, *, tile: int, device: str, num_ctx: int) -> str:
    """`<hex of the source>/<hex>`: files of one key have the same numbers for the same tokens.

    `tile` is that of CachedTokens, `device` the provider's; of `num_ctx` counts whether ropes turn as in short windows.
    Raises ValueError where the variant has no source.
    """
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", info.source):
        raise ValueError(f"variant.json: source is {info.source!r}, not sha256: and 64 hex digits")
    facts = [__version__, ort.__version__, form.name, form.graph, form.dtype, tile, device, _cpu_features()]
    facts += ["long"] if is_long(info, num_ctx) else []
    made_by = hashlib.sha256(msgspec.json.encode([info, facts]))
    for name, array in sorted(form.inputs.items()):
        made_by.update(f"{name} {array.dtype} {array.shape}".encode())
        made_by.update(array.tobytes())
    return f"{info.source.removeprefix('sha256:')}/{made_by.hexdigest()}"


def num_common(left: Ids, right: Ids) -> int:
    """The length of the longest common prefix."""
    shorter = min(len(left), len(right))
    differing = left[:shorter] != right[:shorter]
    return int(differing.argmax()) if differing.any() else shorter


class SavedPrefixes:
    """Evaluated prompts of one variant and KV form, on disk, within a bound over all models.

    `key` is from prefix_key; `shape` (num_layers, 2, num_kv_heads, head_dim). Nothing here raises OSError.
    """

    def __init__(
        self,
        root: Path,
        key: str,
        max_bytes: int,
        shape: tuple[int, int, int, int],
        dtype: str,
        *,
        min_tokens: int = MIN_TOKENS,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self._root = root
        self._folder = root / key
        self._max_bytes = max_bytes
        self._layout = Layout(hashlib.sha256(key.encode()).digest(), np.dtype(dtype).name, shape)
        self._min_tokens = min_tokens
        self._min_free_bytes = min_free_bytes
        self._held: dict[str, SavedPrefix] = {}
        self._scanned_ns = -1  # the folder's mtime when it was scanned
        self._scan()
        self._sweep()

    def longest(self, prompt: list[int], *, exact: bool, tile: int) -> Found | None:
        """The file that spares most of `prompt`'s evaluation, as CachedTokens.reusable counts it; None: none does."""
        self._scan()
        tokens = np.array(prompt, np.int32)
        found = [Found(held, _reusable(held.header, tokens, exact, tile)) for held in self._held.values()]
        best = max(found, key=lambda each: each.num_tokens, default=None)
        return best if best is not None and best.num_tokens > 0 else None

    def read(self, found: Found, slot: Slot) -> bool:
        """Fills positions [:found.num_tokens] of a slot, (num_layers, 2, num_kv_heads, L, head_dim).

        False where the file is gone or damaged: then nobody knows what these positions hold.
        """
        path = found.prefix.path
        try:
            with _open(path) as fd:
                self._read(fd, found, slot)
            return True
        except DamagedPrefix as damage:
            self._discard(path, str(damage))
        except OSError as error:
            log.warning("the saved prompt %s cannot be read: %s", path, error.strerror or error)
        self._held.pop(path.name, None)
        return False

    def save(self, tokens: list[int], num_exact: int, slot: Slot, *, timeout_s: float = SAVE_TIMEOUT_S) -> bool:
        """Keeps the slot's positions [:len(tokens)]; True where they, or nearly all of them, are on disk now.

        `num_exact` of the tokens are exact, see CachedTokens. What the disk has not taken after `timeout_s` is dropped.
        """
        return self.save_all([(tokens, num_exact, slot)], timeout_s=timeout_s) == 1

    def save_all(self, prompts: Iterable[tuple[list[int], int, Slot]], *, timeout_s: float = SAVE_TIMEOUT_S) -> int:
        """As `save` for several, the one used last first: none displaces one before it. How many are on disk now."""
        deadline, used_ns = time.monotonic() + timeout_s, time.time_ns()
        kept: list[Path] = []
        num_kept = 0
        for tokens, num_exact, slot in prompts:
            path = self._keep(np.array(tokens, np.int32), min(num_exact, len(tokens)), slot, kept, deadline)
            if path is not None:
                num_kept += 1
                if path not in kept:
                    _touch(path, used_ns - len(kept))
                    kept.append(path)
        return num_kept

    def _keep(self, tokens: Ids, num_exact: int, slot: Slot, kept: list[Path], deadline: float) -> Path | None:
        """The file that serves these tokens from now on; `kept` stay."""
        if len(tokens) < self._min_tokens:
            return None
        self._scan()
        for held in self._held.values():
            longer = len(held.header.tokens) > len(tokens)
            if held.serves(tokens, num_exact) and (longer or np.array_equal(held.header.tokens, tokens)):
                return held.path
        try:
            return self._save(tokens, num_exact, slot, kept, deadline)
        except OSError as error:
            why = error.strerror or error
            log.warning("a prompt of %d tokens is not saved in %s: %s", len(tokens), self._folder, why)
            return None

    def _read(self, fd: int, found: Found, slot: Slot) -> None:
        header = read_header(fd, self._layout)
        if header.checksum != found.prefix.header.checksum:
            raise FileNotFoundError(0, "another one took its place")
        # what follows is read once: ahead, and without driving pages in use out of memory
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NOREUSE)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        read_values(fd, self._layout, len(header.tokens), slot, found.num_tokens)
        _touch(fd, time.time_ns())

    def _save(self, tokens: Ids, num_exact: int, slot: Slot, kept: list[Path], deadline: float) -> Path | None:
        num_bytes = self._layout.file_bytes(len(tokens))
        if num_bytes > self._max_bytes:
            log.info("a prompt of %d tokens is not saved: it takes %d MiB", len(tokens), num_bytes >> 20)
            return None
        leaving = self._leaving(num_bytes, kept)
        if leaving is None:
            return None
        if free_bytes(self._root) + sum(file.num_bytes for file in leaving) - num_bytes < self._min_free_bytes:
            log.warning("a prompt of %d tokens is not saved: the disk of %s is nearly full", len(tokens), self._root)
            return None
        for file in leaving:
            self._remove(file.path)
        made = self._write(tokens, num_exact, slot, deadline - time.monotonic())
        self._replace(made)
        self._sweep([*kept, made.path])
        return made.path

    def _write(self, tokens: Ids, num_exact: int, slot: Slot, timeout_s: float) -> SavedPrefix:
        _make_directories(self._folder, self._root)
        temp = temp_path(self._folder)
        target = self._folder / (hashlib.sha256(tokens.tobytes()).hexdigest() + SUFFIX)
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            checksum = write_prefix(fd, self._layout, tokens, num_exact, slot, timeout_s)
            inode = os.fstat(fd).st_ino
            temp.rename(target)
            sync_directory(self._folder)
        finally:
            os.close(fd)
            with suppress(OSError):
                temp.unlink()
        return SavedPrefix(target, inode, PrefixHeader(tokens, num_exact, checksum))

    def _replace(self, made: SavedPrefix) -> None:
        """Removes the files that `made` makes needless."""
        for held in list(self._held.values()):
            if held.path != made.path and made.serves(held.header.tokens, held.header.num_exact):
                self._remove(held.path)
        self._held[made.path.name] = made

    def _leaving(self, num_bytes: int, kept: Collection[Path]) -> list[_File] | None:
        """The files that must go so that `num_bytes` more are within the bound; None where others than `kept` are few.

        What somebody writes now counts, and stays.
        """
        files = sorted(_files(self._root))
        excess = sum(file.num_bytes for file in files) + num_bytes - self._max_bytes
        leaving = []
        for file in files:
            if excess <= 0:
                break
            if file.path not in kept and not file.path.name.startswith(TEMP_PREFIX):
                leaving.append(file)
                excess -= file.num_bytes
        return leaving if excess <= 0 else None

    def _sweep(self, kept: Collection[Path] = ()) -> None:
        """Holds the bound where others saved meanwhile, or it is a smaller one."""
        for file in self._leaving(0, kept) or ():
            self._remove(file.path)

    def _remove(self, path: Path) -> None:
        if path.parent == self._folder:
            self._held.pop(path.name, None)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the saved prompt %s cannot be removed: %s", path, error.strerror)

    def _discard(self, path: Path, why: str) -> None:
        log.warning("the saved prompt %s is of no use and goes: %s", path, why)
        self._remove(path)

    def _scan(self) -> None:
        """Sees what others saved and removed."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            if changed_ns != self._scanned_ns:
                with os.scandir(self._folder) as entries:
                    self._held = {prefix.path.name: prefix for prefix in list(self._scanned(entries))}
                self._scanned_ns = changed_ns
        except FileNotFoundError:
            self._held, self._scanned_ns = {}, -1
        except OSError as error:
            log.warning("saved prompts cannot be read from %s: %s", self._folder, error.strerror)

    def _scanned(self, entries: Iterable[os.DirEntry[str]]) -> Iterator[SavedPrefix]:
        for entry in entries:
            path, known = Path(entry.path), self._held.get(entry.name)
            if known is not None and known.inode == entry.inode():
                yield known
            elif entry.name.startswith(TEMP_PREFIX):
                if _is_abandoned(entry.name):
                    self._remove(path)
            elif entry.is_file(follow_symlinks=False) and (prefix := self._opened(path)) is not None:
                yield prefix

    def _opened(self, path: Path) -> SavedPrefix | None:
        try:
            with _open(path) as fd:
                return SavedPrefix(path, os.fstat(fd).st_ino, read_header(fd, self._layout))
        except DamagedPrefix as damage:
            self._discard(path, str(damage))
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("the saved prompt %s cannot be read: %s", path, error.strerror)
        return None


def _reusable(header: PrefixHeader, prompt: Ids, exact: bool, tile: int) -> int:
    if not exact:
        return min(num_common(header.tokens, prompt), len(prompt) - 1)
    common = min(num_common(header.tokens[: header.num_exact], prompt), max(len(prompt) - 2, 0))
    return common - common % tile


@contextmanager
def _open(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _touch(file: Path | int, used_ns: int) -> None:
    """Marks it as used then."""
    with suppress(OSError):  # gone meanwhile, or nothing can be written there
        os.utime(file, ns=(used_ns, used_ns))


def _make_directories(directory: Path, root: Path) -> None:
    """`directory`, below `root`; what is made from `root` on is for its owner alone."""
    root.mkdir(DIR_MODE, parents=True, exist_ok=True)
    for parent in reversed((directory, *directory.relative_to(root).parents[:-1])):
        (root / parent).mkdir(DIR_MODE, exist_ok=True)


def _files(root: Path) -> Iterator[_File]:
    """All models' files, unfinished ones too."""
    for parent, _, names in os.walk(root):
        for name in names:
            path = Path(parent) / name
            with suppress(OSError):  # gone meanwhile
                status = path.lstat()
                yield _File(status.st_mtime_ns, status.st_size, path)


def _is_abandoned(name: str) -> bool:
    """Whether whoever wrote this temporary file is dead; this process writes none while it looks."""
    pid = name.removeprefix(TEMP_PREFIX).partition("-")[0]
    return pid == str(os.getpid()) or not Path("/proc", pid or "-").exists()


def _cpu_features() -> str:
    """The line of /proc/cpuinfo that decides which kernels run; "" where there is none."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""
