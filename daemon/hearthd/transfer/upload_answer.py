"""What registries say while something is pushed to them."""

from __future__ import annotations

import re

import aiohttp
from aiohttp import hdrs
from yarl import URL

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.http import PASSING, REDIRECTS, complaint, one_line, retry_after_s
from hearthd.transfer.messages import FAILED, NOT_FOUND, UNAUTHORIZED, Repository
from hearthd.transfer.registry import host_of, registry_url

PART_BYTES = 16 << 20  # stores behind registries want 5 MiB at least
MAX_PART_BYTES = 1 << 30  # of what a registry may ask for
HOPELESS = (501, 505, 507)  # of the statuses from 500 on: not implemented, HTTP version, no space
LOST = (404, 410, 416)  # an upload that is gone or somewhere else
MIN_LENGTH = "OCI-Chunk-Min-Length"
UPLOAD_LOCATION = "Docker-Upload-Location"  # where Location leads to a store behind the registry
HINT = "a push needs the right to write"
CONTENT_DIGEST = "Docker-Content-Digest"

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


async def expect_success(answer: aiohttp.ClientResponse, repository: Repository) -> None:
    """Returns where the status is 2xx. Raises TransferError; Passing where another try may help."""
    if answer.status < 300:
        return
    if answer.status < 400:
        target = one_line(answer.headers.get(hdrs.LOCATION, ""))
        raise TransferError(f"{answer.status}: it redirects to {target or 'nowhere'}, where a push does not follow")
    if answer.status in (401, 403):
        raise unauthorized(repository, answer.status, await complaint(answer))
    text = f"{answer.status}: {await complaint(answer)}"
    if answer.status in PASSING or (answer.status >= 500 and answer.status not in HOPELESS):
        raise Passing(text, status=answer.status, after_s=retry_after_s(answer))
    raise TransferError(text, NOT_FOUND if answer.status == 404 else FAILED, answer.status)


def unauthorized(repository: Repository, status: int, said: str) -> TransferError:
    """The error of a registry that does not let us write; `said`: its own words."""
    name = f"{repository.host}/{repository.path}"
    why = f"{name} says: {said}" if said else f"{name} does not know this device's key or credentials"
    return TransferError(f"unauthorized: access denied; {why}; {HINT}", UNAUTHORIZED, status)


async def expect_upload(answer: aiohttp.ClientResponse, repository: Repository) -> None:
    """As `expect_success`, for a request to an upload under way: Passing too where the registry lost that."""
    if answer.status in LOST or answer.status == 400:
        said = await complaint(answer)
        text = f"{answer.status}: {said}"
        if answer.status in LOST or "blob upload" in said.lower().replace("_", " "):
            raise Passing(text, status=answer.status)
        raise TransferError(text, status=answer.status)
    await expect_success(answer, repository)


def upload_location(answer: aiohttp.ClientResponse, repository: Repository) -> str:
    """The URL at which the upload goes on, query and all; "" where the answer does not say. Raises TransferError."""
    text = answer.headers.get(UPLOAD_LOCATION, "")
    if not text and answer.status not in REDIRECTS:
        text = answer.headers.get(hdrs.LOCATION, "")
    if not text:
        return ""
    registry = registry_url(repository)
    try:
        url = answer.url.join(URL(text, encoded=True))
    except ValueError as error:
        raise TransferError(f"the upload goes on at no usable address: {one_line(text)}") from error
    if registry.scheme == "https" and url.scheme == "http" and url.host == registry.host:
        url = registry.join(url.relative())  # a registry that does not know of the TLS before it
    if url.scheme != registry.scheme and url.scheme != "https":
        raise TransferError(f"the upload would go on at {host_of(url)} by {url.scheme}, which is refused")
    return str(url)


def taken_bytes(answer: aiohttp.ClientResponse) -> int | None:
    """How many bytes of the upload the registry says it has; None where it does not say.

    "0-0" is None too: registries write it for none and for one.
    """
    match = _RANGE.fullmatch(answer.headers.get(hdrs.RANGE, "").strip())
    return int(match[1]) + 1 if match and int(match[1]) else None


def part_bytes(answer: aiohttp.ClientResponse) -> int:
    """How large the registry wants parts to be."""
    wanted = answer.headers.get(MIN_LENGTH, "").strip()
    least = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 12 else 0
    return min(max(PART_BYTES, least), MAX_PART_BYTES)


def check_digest(answer: aiohttp.ClientResponse, digest: str) -> None:
    """Raises TransferError where the registry stored something else."""
    stored = answer.headers.get(CONTENT_DIGEST, "")
    if stored and stored != digest:
        raise TransferError(f"the registry stored {one_line(stored)} where {digest} was sent")
