"""What a client uploaded for a new model: files by name, each a blob."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import msgspec

from hearthd import repository
from hearthd.errors import BadRequest
from hearthd.store.blobs import BlobStore, normal_digest
from hearthd.store.durable import DIR_MODE

GGUF_MAGIC = b"GGUF"

Files = dict[str, Path]  # by relative name


class Upload(msgspec.Struct, frozen=True):
    """A checkpoint's files in the blob store."""

    files: dict[str, str]  # relative name -> digest
    only_gguf: str = ""  # the digest, where one GGUF file is all
    shown: str = ""

    @property
    def digests(self) -> list[str]:
        return list(self.files.values())

    def paths(self, blobs: BlobStore) -> Files:
        """Where the files are."""
        return {name: blobs.path(digest) for name, digest in self.files.items()}


def uploaded(blobs: BlobStore, files: Mapping[str, str]) -> Upload:
    """The checkpoint among uploaded files. Raises BadRequest, InvalidDigest."""
    present = _present(blobs, files)
    if len(present) == 1:
        name, path = next(iter(present.items()))
        magic = _magic(path)
        if magic != GGUF_MAGIC:
            raise BadRequest(f"unknown type: {name} begins with {magic!r}, not with {GGUF_MAGIC!r} as a GGUF file does")
        return Upload({name: normal_digest(files[name])}, normal_digest(files[name]), name)
    kind = repository.format_of(files)
    chosen = {name: normal_digest(digest) for name, digest in files.items() if repository.belongs(name, kind)}
    if len(chosen) == 1 and kind == repository.GGUF:
        return uploaded(blobs, chosen)
    return Upload(chosen, shown="the uploaded files")


def uploaded_adapter(blobs: BlobStore, files: Mapping[str, str], paths: tuple[Path, ...]) -> tuple[str, Files] | None:
    """Name and files of the adapter, uploaded or on this machine; None where there is none.

    Raises BadRequest, InvalidDigest where there are several, or it is neither GGUF nor a directory of safetensors.
    """
    present = _present(blobs, files) if files else {}
    groups = ([present] if repository.ADAPTER_CONFIG in {PurePosixPath(name).name for name in present} else
              [{name: path} for name, path in present.items()]) + [_on_machine(path) for path in paths]  # fmt: skip
    if len(groups) > 1:
        raise BadRequest("only one adapter is currently supported")
    if not groups:
        return None
    group = groups[0]
    name = str(paths[0]) if paths else next(iter(group))
    if len(group) == 1:
        if _magic(next(iter(group.values()))) != GGUF_MAGIC:
            raise BadRequest(
                f"supplied file was not in GGUF format: adapter {name} (one of safetensors has a directory with "
                f"{repository.ADAPTER_CONFIG} beside it)"
            )
        return name, group
    return (str(paths[0]) if paths else "of safetensors"), {PurePosixPath(name).name: group[name] for name in group}


def laid_out_files(files: Files, parent: Path) -> AbstractContextManager[str]:
    """A directory below `parent` with a link to each file, until the block ends. The names must have been checked."""
    parent.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
    directory = TemporaryDirectory(prefix=f".tmp-{os.getpid()}-files-", dir=parent, ignore_cleanup_errors=True)
    try:
        for name, path in files.items():
            target = Path(directory.name) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
    except BaseException:
        directory.cleanup()
        raise
    return directory


def _on_machine(path: Path) -> Files:
    if not path.is_dir():
        return {path.name: path}
    try:
        found = repository.adapter_files(path)
    except (BadRequest, OSError) as error:
        raise BadRequest(f"ADAPTER {path}: {error}") from error
    if len(found) > 1 and not path.joinpath(repository.ADAPTER_CONFIG).is_file():
        raise BadRequest("only one adapter is currently supported")
    return {file.name: file for file in found}


def _present(blobs: BlobStore, files: Mapping[str, str]) -> Files:
    """Where the uploaded files are. Raises BadRequest for a name that leads elsewhere, InvalidDigest."""
    for name, digest in files.items():
        _check_name(name)
        if not blobs.has(digest):
            digest = normal_digest(digest)
            raise BadRequest(f'blob "{digest}" of {name[:200]} is not here; upload it to /api/blobs/{digest} first')
    return {name: blobs.path(digest) for name, digest in files.items()}


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise BadRequest("file path must be relative")
    if "\0" in name or str(path) != name or len(name) > 1024:
        raise BadRequest(f"{name[:200]!r} is no name for a checkpoint's file")


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from error
