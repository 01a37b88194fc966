"""Fetching a small file of a hub repository, which git's digest vouches for."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp

from hearthd.errors import StoreError
from hearthd.store.blobs import BlobStore, BlobWriter
from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.http import Http, refusal
from hearthd.transfer.messages import FAILED, MISMATCH, NO_SPACE, NOT_FOUND, FetchFile, Settings
from hearthd.transfer.registry import host_of, hub_file_url
from hearthd.transfer.retry import Retries
from hearthd.transfer.threads import in_thread

MAX_SIZE = 64 << 20  # the hub wants larger ones in LFS: https://huggingface.co/docs/hub/en/repositories-next-steps

_BLOB_ID = re.compile(r"[0-9a-f]{40}")

Report = Callable[[int, int], None]  # bytes here, bytes in all


async def fetch_file(http: Http, settings: Settings, job: FetchFile, report: Report) -> bytes:
    """The digest of the blob that the file became, "sha256:<hex>". Raises TransferError."""
    if not _BLOB_ID.fullmatch(job.blob_id) or not 0 <= job.size <= MAX_SIZE:
        raise TransferError(f"{job.file.name[:200]} cannot be fetched: {job.size} bytes with git's id {job.blob_id!r}")
    retries = Retries(settings)
    while True:
        try:
            return (await _fetch(http, job, report)).encode()
        except Passing as error:
            await retries.pause(error)
        except StoreError as error:
            raise TransferError(str(error), _reason(error)) from error


async def _fetch(http: Http, job: FetchFile, report: Report) -> str:
    where = hub_file_url(job.repository, job.file)
    async with http.get(job.repository, where) as response:
        if response.status != 200:
            raise await _refusal(response, job)
        with BlobStore(Path(job.directory)).writer() as writer:
            await _copy(http, response, job, writer, report)
    return writer.digest


async def _copy(
    http: Http, response: aiohttp.ClientResponse, job: FetchFile, writer: BlobWriter, report: Report
) -> None:
    git = hashlib.sha1(b"blob %d\0" % job.size, usedforsecurity=False)  # https://git-scm.com/book/en/v2/Git-Internals
    async for chunk in response.content.iter_any():
        if writer.num_bytes + len(chunk) > job.size:
            raise _mismatch(job, f"{host_of(response.url)} sends more than its {job.size} bytes")
        git.update(chunk)
        await in_thread(writer.write, chunk)
        await http.rate.take(len(chunk))
        report(writer.num_bytes, job.size)
    if writer.num_bytes < job.size:
        host = host_of(response.url)
        raise Passing(f"pull {job.file.name}: {host} ended its answer after {writer.num_bytes} of {job.size} bytes")
    if git.hexdigest() != job.blob_id:
        raise _mismatch(job, f"its content has git's id {git.hexdigest()}, not {job.blob_id}")


def _mismatch(job: FetchFile, why: str) -> TransferError:
    return TransferError(f"{job.file.name} must be downloaded again, it is not what the hub lists: {why}", MISMATCH)


async def _refusal(response: aiohttp.ClientResponse, job: FetchFile) -> TransferError:
    if response.status == 404:
        place = f"{job.repository.host}/{job.repository.path}"
        return TransferError(f"{job.file.name} is not in {place}", NOT_FOUND, 404)
    return await refusal(response, job.repository, f"pull {job.file.name}")


def _reason(error: StoreError) -> str:
    cause = error.__cause__
    return NO_SPACE if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) else FAILED
