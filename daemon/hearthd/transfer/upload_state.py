"""What an interrupted upload needs to go on: a small file, rewritten after every part that the registry took."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hearthd.store.durable import temp_path
from hearthd.transfer.messages import SendBlob

MAX_STATE_BYTES = 4 << 20  # sums of 100,000 parts


class UploadState(msgspec.Struct, kw_only=True):
    """An upload that a registry knows about."""

    host: str
    path: str
    digest: str
    size: int  # bytes of the blob
    location: str  # URL at which it goes on; some registries put a signed state into it
    part_bytes: int  # of all parts but the last
    offset: int = 0  # bytes that the registry has taken
    sums: list[str] = []  # MD5 of the parts that went to a store behind the registry, in hexadecimal

    def belongs_to(self, job: SendBlob) -> bool:
        """Whether it is of the same blob, on its way to the same repository."""
        place = (job.repository.host, job.repository.path, job.digest, job.size)
        return (self.host, self.path, self.digest, self.size) == place and 0 <= self.offset <= self.size


def load_state(job: SendBlob) -> UploadState | None:
    """What an earlier process left of this upload; None where it left nothing that can be used."""
    try:
        with Path(job.state).open("rb") as file:
            state = msgspec.json.decode(file.read(MAX_STATE_BYTES), type=UploadState)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return state if state.belongs_to(job) and state.part_bytes > 0 else None


def save_state(path: Path, state: UploadState) -> None:
    """Replace the file whole. Not flushed: a state that a power cut took costs an upload anew. Raises OSError."""
    temp = temp_path(path.parent)
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(msgspec.json.encode(state))
        temp.rename(path)
    finally:
        temp.unlink(missing_ok=True)
