"""Hugging Face's hub on loopback, as far as models need it: the API, files behind redirects, the registry's refusal.

Files whose endings are in LARGE are in LFS: the hub sends to its other port for them. Behaviour as documented at
https://huggingface.co/docs/hub/en/api and seen in huggingface_hub's own error handling.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.registries.misbehaving import Blob, Fault, Handler, MisbehavingRegistry, Range, digest_of

LARGE = (".safetensors", ".onnx", ".onnx_data", ".gguf", ".bin")


@dataclass(slots=True)
class Repository:
    """One repository; all its revisions are the same commit."""

    files: dict[str, bytes]
    gated: bool = False  # listed for everybody, its files for the token
    private: bool = False
    revisions: set[str] = field(default_factory=lambda: {"main"})

    @property
    def commit(self) -> str:
        """It changes with the files."""
        told = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self.files.items())]
        return hashlib.sha1(json.dumps(told).encode(), usedforsecurity=False).hexdigest()


def blob_id(data: bytes) -> str:
    """Git's sha1 of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Hub(MisbehavingRegistry):
    """Two ports: the hub's own, and the one of its large files."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.token = "hf_of_these_tests"  # may read everything
        self.api_faults: list[Fault] = []  # for questions of what a repository holds
        self.listing: dict[str, Any] = {}  # what a listing says instead
        super().__init__(None)

    def publish(self, name: str, files: Path | Mapping[str, bytes], **fields: Any) -> Repository:
        """A repository, or its next commit, with these files or those of a directory."""
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        made = self.repositories[name] = Repository(dict(files), **fields)
        for data in files.values():
            self.blobs.setdefault(digest_of(data), Blob(data))
        return made

    def blob(self, repository: str, name: str) -> Blob:
        """How one of its files is served."""
        return self.blobs[digest_of(self.repositories[repository].files[name])]

    def paths(self, part: str = "") -> list[str]:
        """What was asked for so far, of all paths that hold `part`."""
        return [seen.path for seen in self.seen if part in seen.path]

    def _answer_registry(self, handler: Handler, path: str) -> None:
        parts = unquote(path).lstrip("/")
        if match := re.fullmatch(r"v2/([^/]+/[^/]+)/manifests/(.+)", parts):
            if f"{match[1]}:{match[2]}" in self.manifests or match[1] not in self.repositories:
                super()._answer_registry(handler, path)
            else:
                handler.reply(400, b'{"error":"Repository is not GGUF or is not compatible with llama.cpp"}')
        elif match := re.fullmatch(r"api/models/([^/]+/[^/]+)/(revision/(.+)|auth-check)", parts):
            self._answer_api(handler, match[1], match[3])
        elif match := re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", parts):
            self._answer_file(handler, match[1], match[2], match[3])
        elif match := re.fullmatch(r"cache/([0-9a-f]{64})", parts):
            handler.serve_range(self.blobs[f"sha256:{match[1]}"])
        else:
            super()._answer_registry(handler, path)

    def _answer_api(self, handler: Handler, name: str, revision: str | None) -> None:
        if self.api_faults:
            handler.blob = Blob(b"")
            self.api_faults.pop(0)(handler, Range(b"", 0, 0))
            return
        repository = self._visible(handler, name, wants_files=revision is None)
        if repository is None:
            return
        if revision is None:
            handler.reply(200, b"{}")
        elif revision not in repository.revisions | {repository.commit}:
            handler.reply(404, b'{"error":"Invalid rev id"}', X_Error_Code="RevisionNotFound")
        else:
            handler.reply(200, json.dumps(self._listing(name, repository)).encode(), Content_Type="application/json")

    def _listing(self, name: str, repository: Repository) -> dict[str, Any]:
        files = [_sibling(path, data) for path, data in repository.files.items()]
        about: dict[str, Any] = {
            "gated": "auto" if repository.gated else False,
            "private": repository.private,
            "tags": [],
        }
        return {"_id": "1", "id": name, "modelId": name, "sha": repository.commit, "siblings": files, **about,
                **self.listing}  # fmt: skip

    def _answer_file(self, handler: Handler, name: str, commit: str, path: str) -> None:
        repository = self._visible(handler, name, wants_files=True)
        if repository is None:
            return
        if commit != repository.commit or path not in repository.files:
            handler.reply(404, b"Entry not found", X_Error_Code="EntryNotFound")
            return
        digest = digest_of(repository.files[path])
        if path.endswith(LARGE):
            handler.reply(302, Location=f"http://{self.content_host}/{digest}?signature=0")
        else:
            handler.reply(307, Location=f"/cache/{digest[7:]}")

    def _visible(self, handler: Handler, name: str, *, wants_files: bool) -> Repository | None:
        """The repository, if whoever asks may see it; else the answer was given."""
        knows = handler.headers.get("Authorization", "") == f"Bearer {self.token}"
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not knows):
            handler.reply(404 if knows else 401, b'{"error":"Repository not found"}', X_Error_Code="RepoNotFound")
            return None
        if repository.gated and wants_files and not knows:
            handler.reply(403, b"Access to model is restricted", X_Error_Code="GatedRepo")
            return None
        return repository


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    file: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": blob_id(data)}
    if path.endswith(LARGE):
        file["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return file


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """A hub on two free loopback ports."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()
