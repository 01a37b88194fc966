"""Debian's docker-registry, a real OCI registry, on a free loopback port."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import PATIENCE_S, eventually, free_port

FETCHED = Path(sys.prefix) / "registry" / "usr" / "bin" / "docker-registry"  # where setup.sh puts it
USER, PASSWORD = "ali", "open sesame"
PASSWORD_BCRYPT = "$2b$04$OAzek2NCRUkWyswyYdqYCefXk2tHWhG6j4Ejlv/m5hnXABWnrIlU."  # of PASSWORD, for htpasswd files
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def program() -> str:
    """Path of docker-registry; without one the calling test is skipped."""
    found = shutil.which("docker-registry", path=f"{os.environ.get('PATH', os.defpath)}:{FETCHED.parent}")
    if found is None:
        pytest.skip("docker-registry is not here (setup.sh dev fetches it where apt-get can)")
    return found


class DockerRegistry:
    """A docker-registry that can be stopped and started again on the same storage and port."""

    def __init__(self, directory: Path, *, htpasswd: bool = False) -> None:
        self.program = program()
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        self.directory = directory
        self.storage = directory / "storage"
        self.storage.mkdir(parents=True)
        self.auth = (USER, PASSWORD) if htpasswd else None
        self.process: subprocess.Popen[bytes] | None = None
        self._write_configuration(htpasswd)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", auth=self.auth, timeout=PATIENCE_S, trust_env=False
        )

    def _write_configuration(self, htpasswd: bool) -> None:
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "for tests"},  # the same after a restart
        }
        if htpasswd:
            users = self.directory / "htpasswd"
            users.write_text(f"{USER}:{PASSWORD_BCRYPT}\n")
            configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(users)}}
        (self.directory / "config.yml").write_text(json.dumps(configuration))  # JSON is YAML

    @property
    def log(self) -> str:
        """All that it said so far; one line a request among it."""
        return (self.directory / "registry.log").read_text()

    def start(self) -> None:
        """Returns when it answers."""
        with (self.directory / "registry.log").open("ab") as log:
            command = [self.program, "serve", str(self.directory / "config.yml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._answers, "docker-registry answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return self.http.get("/v2/").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None

    def blob(self, path: str, digest: str) -> bytes | None:
        """The blob of a repository, checked against its digest; None: it is not there."""
        answer = self.http.get(f"/v2/{path}/blobs/{digest}")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        assert digest == "sha256:" + hashlib.sha256(answer.content).hexdigest()
        return answer.content

    def put_blob(self, path: str, data: bytes) -> str:
        """Its digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        place = self.http.post(f"/v2/{path}/blobs/uploads/").headers["Location"]
        done = self.http.put(place, params={"digest": digest} | dict(httpx.URL(place).params), content=data)
        assert done.status_code == 201, done.text
        return digest

    def manifest(self, path: str, reference: str) -> bytes | None:
        """The manifest as it was sent; None: it is not there."""
        answer = self.http.get(f"/v2/{path}/manifests/{reference}", headers={"Accept": MANIFEST_TYPE})
        return None if answer.status_code == 404 else answer.content

    def delete_blob(self, path: str, digest: str) -> None:
        """Unlink the blob from the repository."""
        assert self.http.delete(f"/v2/{path}/blobs/{digest}").status_code == 202

    def uploads(self, path: str) -> list[Path]:
        """Directories of the uploads that are under way, one each."""
        return sorted((self.storage / "docker/registry/v2/repositories" / path / "_uploads").glob("*"))

    def requests(self, method: str, text: str = "") -> int:
        """How many requests of the method came whose log line has `text`."""
        return sum(f'"{method} /' in line and text in line for line in self.log.splitlines())

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self.http.close()


@contextmanager
def docker_registry(directory: Path, *, htpasswd: bool = False) -> Iterator[DockerRegistry]:
    """A registry that answers; `htpasswd`: only to USER with PASSWORD."""
    registry = DockerRegistry(directory, htpasswd=htpasswd)
    try:
        registry.start()
        yield registry
    finally:
        registry.close()
