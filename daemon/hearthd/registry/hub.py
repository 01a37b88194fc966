"""Pulling a repository of Hugging Face's hub that holds safetensors or ONNX: its files become a model's layers.

What a repository with GGUF files holds comes by the registry protocol instead: see pull.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, aclosing
from typing import Any

import msgspec

from hearthd.errors import ModelNotFound, StoreError, TransferFailed
from hearthd.registry.create import create
from hearthd.registry.progress import Progress, Report
from hearthd.registry.selection import MAX_LICENSE_BYTES, Selection, choose, needs_config
from hearthd.registry.spec import CreateSpec
from hearthd.registry.transfers import Transfers
from hearthd.registry.variants import ensure_variant
from hearthd.store import media
from hearthd.store.durable import free_bytes
from hearthd.store.manifest import COMMIT_NOTE, Manifest
from hearthd.store.names import DEFAULT_TAG, ModelName
from hearthd.store.store import ModelStore
from hearthd.transfer.messages import HubFile, Listed, Listing, Moved, Repository

HOSTS = frozenset(("hf.co", "huggingface.co"))
NO_GGUF = (400, 401, 403, 404)  # what the hub's registry answers where there is no GGUF file, or none for us
DEFAULT_REVISION = "main"
MAX_SMALL_BYTES = 64 << 20  # of a file whose SHA-256 the hub does not tell
MAX_CONFIG_BYTES = 4 << 20
VARIANT_SHARE = 1.0  # bytes of a variant to be expected for a byte of the repository's files
SLACK_BYTES = 64 << 20  # left free for everything else

_OF_CREATE = ("using existing layer", "creating new layer")  # not for those who pull


def may_hold_others(repository: Repository, error: TransferFailed) -> bool:
    """Whether the repository, which the registry protocol gives no manifest of, may hold safetensors or ONNX."""
    return repository.host in HOSTS and error.answered in NO_GGUF


class HubPull:
    """One pull at work."""

    def __init__(
        self,
        store: ModelStore,
        transfers: Transfers,
        name: ModelName,
        repository: Repository,
        report: Report,
        *,
        noprune: bool,
        python: str,
    ) -> None:
        self._store = store
        self._transfers = transfers
        self._name = name
        self._asked = repository
        self._repository = repository
        self._report = report
        self._noprune = noprune
        self._python = python
        self._commit = ""
        self._digests: dict[str, str] = {}  # of what is here, by the files' names in the repository

    async def run(self) -> None:
        """Do it all. Raises TransferFailed, StoreError, BadRequest, ExportFailed."""
        tag = self._name.tag
        listing = await self._transfers.listing(self._asked, DEFAULT_REVISION if tag == DEFAULT_TAG else tag)
        self._repository = msgspec.structs.replace(self._asked, path=listing.repository)  # it may have been renamed
        self._commit = listing.commit
        if manifest := self._present(listing.commit):
            await self._tell_present(manifest)
            return
        with ExitStack() as self._held:
            await self._fetch(listing)

    # the same commit once more

    def _present(self, commit: str) -> Manifest | None:
        """The model as it was pulled from this commit; None where it is not here, or not as it was pulled."""
        try:
            manifest = self._store.resolve(self._name).manifest
        except (ModelNotFound, StoreError):
            return None
        source = manifest.of(media.INDEX)
        if not source or source[0].annotations.get(COMMIT_NOTE) != commit or source[0].from_:
            return None
        blobs = self._store.blobs
        whole = all(blobs.has(part.digest) and blobs.size(part.digest) == part.size for part in manifest.needed)
        return manifest if whole else None

    async def _tell_present(self, manifest: Manifest) -> None:
        with self._store.holding(part.digest for part in manifest.parts):
            for part in manifest.needed[1:]:
                self._tell(part.digest, part.size, part.size)
            await ensure_variant(self._store, manifest.of(media.INDEX)[0].digest, self._report, python=self._python)
        self._report(Progress(f"commit {self._commit[:12]} is up to date"))
        self._report(Progress("success"))

    # another one

    async def _fetch(self, listing: Listing) -> None:
        self._check_room(file for file in (needs_config(listing.files),) if file)
        chosen = await self._chosen(listing)
        self._check_room(chosen.needed, converted=chosen.files.values())
        for file in chosen.needed:
            await self._fetch_file(file)
        self._report(Progress("verifying sha256 digest"))  # done while the bytes came in
        await self._make(chosen)

    async def _chosen(self, listing: Listing) -> Selection:
        shown = f"{self._asked.host}/{listing.repository}"
        config = needs_config(listing.files)
        if config is None:
            return choose(listing.files, shown)
        await self._fetch_file(config)
        facts = self._json(self._digests[config.name])
        architectures = facts.get("architectures")
        is_decoder = "ForCausalLM" in str(architectures) or "LMHead" in str(architectures)
        return choose(listing.files, shown, model_type=str(facts.get("model_type")), is_decoder=is_decoder)

    def _json(self, digest: str) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self._store.blobs.read(digest, MAX_CONFIG_BYTES), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise TransferFailed(f"{self._name.short}: config.json is no JSON object: {error}") from error

    async def _fetch_file(self, file: Listed) -> None:
        if file.name in self._digests:
            return
        digest = await self._fetch_large(file) if file.sha256 else await self._fetch_small(file)
        self._digests[file.name] = digest
        self._tell(digest, file.size, file.size)

    async def _fetch_large(self, file: Listed) -> str:
        digest, blobs = f"sha256:{file.sha256}", self._store.blobs
        self._hold(digest)
        if blobs.has(digest):
            if blobs.size(digest) != file.size:
                raise StoreError(f"the hub gives {file.name} {file.size} bytes, but {digest} has {blobs.size(digest)}")
            return digest
        where = HubFile(commit=self._commit, name=file.name)
        moves = self._transfers.fetch(self._repository, digest, file.size, blobs.root, file=where)
        async with aclosing(moves):
            async for moved in moves:
                self._tell(digest, file.size, moved.completed)
        if not blobs.has(digest):
            raise TransferFailed(f"{file.name} was fetched, but is not in the store; pull again")
        return digest

    async def _fetch_small(self, file: Listed) -> str:
        if file.size > MAX_SMALL_BYTES:
            raise TransferFailed(
                f"{file.name} has {file.size} bytes, and the hub gives no SHA-256 of it; it is refused"
            )

        def on_moved(moved: Moved) -> None:
            self._report(Progress(f"pulling {file.name}", total=file.size, completed=moved.completed))

        digest = await self._transfers.fetch_file(
            self._repository, self._commit, file, self._store.blobs.root, on_moved
        )
        self._hold(digest)
        return digest

    def _hold(self, digest: str) -> None:
        self._held.enter_context(self._store.holding([digest]))

    def _tell(self, digest: str, total: int, completed: int) -> None:
        self._report(Progress(f"pulling {digest[7:19]}", digest, total, completed))

    def _check_room(self, files: Iterable[Listed], converted: Iterable[Listed] = ()) -> None:
        """StoreError where what is missing of the files, and the variant to be made, do not fit on the disk."""
        blobs = self._store.blobs
        missing = {file.sha256 or file.blob_id: file for file in files if not self._is_here(file)}
        if not missing:
            return
        wanted = sum(file.size for file in missing.values()) + int(VARIANT_SHARE * sum(file.size for file in converted))
        wanted -= sum(blobs.partial_bytes(f"sha256:{file.sha256}") for file in missing.values() if file.sha256)
        free = free_bytes(blobs.root)
        if wanted + SLACK_BYTES > free:
            raise StoreError(
                f"{self._name.short} does not fit: it takes {wanted} bytes more, files and converted model together, "
                f"and {self._store.root} has {free} bytes free; make room and pull again"
            )

    def _is_here(self, file: Listed) -> bool:
        return file.name in self._digests or (bool(file.sha256) and self._store.blobs.has(f"sha256:{file.sha256}"))

    # the model

    async def _make(self, chosen: Selection) -> None:
        """The model of the files that are here, as a create of the same files makes it."""
        spec = CreateSpec(
            name=self._name,
            files={name: self._digests[file.name] for name, file in chosen.files.items()},
            licenses=(self._license(chosen.license),) if chosen.license else (),
            shown=self._name.short,
            notes={COMMIT_NOTE: self._commit},
        )
        async with aclosing(create(self._store, spec, noprune=self._noprune, python=self._python)) as steps:
            async for step in steps:
                if not step.status.startswith(_OF_CREATE):
                    self._report(step)

    def _license(self, file: Listed) -> str:
        return self._store.blobs.read(self._digests[file.name], MAX_LICENSE_BYTES).decode("utf-8", "replace")
