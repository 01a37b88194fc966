"""Where a registry keeps a blob, and ranges of it, checked before a byte is taken."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs
from yarl import URL

from hearthd.transfer.errors import Passing, TransferError
from hearthd.transfer.extents import Extent
from hearthd.transfer.http import MAX_REDIRECTS, Http, one_line, redirect_target, refusal
from hearthd.transfer.messages import NOT_FOUND, FetchBlob
from hearthd.transfer.registry import host_of, hub_file_url, trusts

READ_BYTES = 512 << 10
EXPIRED = (401, 403, 404, 410)  # what the target of a redirect answers when its signature has run out

_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UNSATISFIED_RANGE = re.compile(r"bytes\s+\*/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Body:
    """An answer with bytes of the blob."""

    response: aiohttp.ClientResponse
    extent: Extent  # of the blob; never more than was asked for, or all of it
    whole: bool  # the registry gives no ranges


class BlobSource:
    """The registry's blob of a job."""

    def __init__(self, http: Http, job: FetchBlob) -> None:
        self._http = http
        self._job = job
        self._target: URL | None = None  # where the registry sent us, as long as it works
        self._allow_plain = job.repository.plain or job.repository.insecure
        self.ranged = True  # as far as we know
        self.name = job.file.name if job.file else f"blob {job.digest[7:19]}"
        self._where = hub_file_url(job.repository, job.file) if job.file else f"blobs/{job.digest}"

    @asynccontextmanager
    async def open(self, extent: Extent) -> AsyncGenerator[Body, None]:
        """The bytes of `extent` or some of the first of them; all of the blob where there are no ranges.

        Raises TransferError, and Passing where another try may help.
        """
        remembered = self._target
        where: str | URL = remembered or self._where
        headers = {hdrs.RANGE: f"bytes={extent.start}-{extent.end - 1}"}
        for _ in range(MAX_REDIRECTS + 1):
            async with self._http.request("GET", self._job.repository, where, headers=headers) as response:
                if response.status in (200, 206):
                    self._target = where if isinstance(where, URL) and where != self._where else None
                    yield self._body(response, extent)
                    return
                target = redirect_target(response, allow_plain=self._allow_plain)
                if target is None:
                    raise self._expiry(response, remembered) or await self._refusal(response)
            where = target
        raise TransferError(f"pull {self.name}: {self._job.repository.host} redirects more than {MAX_REDIRECTS} times")

    async def chunks(self, body: Body) -> AsyncGenerator[bytes, None]:
        """The bytes of `body`. Raises Passing where they end early, TransferError where they do not end."""
        rate, content = self._http.rate, body.response.content
        step_bytes, num_bytes = rate.step_bytes(READ_BYTES), 0
        while chunk := await content.read(step_bytes):
            num_bytes += len(chunk)
            if num_bytes > body.extent.num_bytes:
                raise self._wrong(body.response, f"it sends more than the {body.extent.num_bytes} bytes asked for")
            await rate.take(len(chunk))
            yield chunk
        if num_bytes < body.extent.num_bytes:
            host = host_of(body.response.url)
            raise Passing(
                f"pull {self.name}: {host} ended its answer after {num_bytes} of {body.extent.num_bytes} bytes"
            )

    def _body(self, response: aiohttp.ClientResponse, asked: Extent) -> Body:
        encoding = response.headers.get(hdrs.CONTENT_ENCODING, "identity")
        if encoding.lower() != "identity":
            raise self._wrong(response, f"it sends the blob encoded as {one_line(encoding)}")
        whole = response.status == 200
        if whole:
            extent = Extent(0, self._job.size)
            self._check_size(response, response.content_length)
            self.ranged = False
        else:
            extent = self._check_range(response, asked)
        if response.content_length not in (None, extent.num_bytes):
            raise self._wrong(response, f"it sends {response.content_length} bytes as a range of {extent.num_bytes}")
        return Body(response, extent, whole)

    def _check_range(self, response: aiohttp.ClientResponse, asked: Extent) -> Extent:
        text = response.headers.get(hdrs.CONTENT_RANGE, "")
        match = _CONTENT_RANGE.fullmatch(text)
        if match is None:
            raise self._wrong(response, f"its Content-Range {one_line(text)!r} is no range of bytes")
        extent = Extent(int(match[1]), int(match[2]) + 1)
        self._check_size(response, None if match[3] == "*" else int(match[3]))
        if not asked.start == extent.start < extent.end <= asked.end:
            asked_text = f"{asked.start}-{asked.end - 1}"
            raise self._wrong(
                response, f"it answers with bytes {match[1]}-{match[2]} where {asked_text} were asked for"
            )
        return extent

    def _check_size(self, response: aiohttp.ClientResponse, size: int | None) -> None:
        if size is not None and size != self._job.size:
            raise self._wrong(response, f"the blob has {size} bytes there, and {self._job.size} by its manifest")

    def _wrong(self, response: aiohttp.ClientResponse, what: str) -> TransferError:
        return TransferError(f"pull {self.name} from {host_of(response.url)}: {what}", status=response.status)

    def _expiry(self, response: aiohttp.ClientResponse, address: URL | None) -> TransferError | None:
        """The error of a remembered address that works no longer; the registry will name another one."""
        if response.url != address or response.status not in EXPIRED:
            return None
        if self._target is address:
            self._target = None
        text = f"pull {self.name}: {host_of(address)} answers {response.status} for an address that worked"
        return Passing(text, status=response.status)

    async def _refusal(self, response: aiohttp.ClientResponse) -> TransferError:
        if response.status == 404:
            host = self._job.repository.host
            place = f"in {host}/{self._job.repository.path}" if self._job.file else f"in the registry {host}"
            return TransferError(f"{self.name} is not {place}", NOT_FOUND, 404)
        if response.status == 416:
            match = _UNSATISFIED_RANGE.fullmatch(response.headers.get(hdrs.CONTENT_RANGE, ""))
            self._check_size(response, int(match[1]) if match else None)
        elsewhere = "" if trusts(self._job.repository, response.url) else f" from {host_of(response.url)}"
        return await refusal(response, self._job.repository, f"pull {self.name}{elsewhere}")
